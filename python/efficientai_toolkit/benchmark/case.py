"""Cases: what a suite measures."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from efficientai_toolkit.exceptions import ConfigError

Settings = Mapping[str, str | int | float | bool | None]
"""Parameters of a case by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A measurement, which runs in a process of its own.

    Exactly one of ``run``, ``measure`` and ``command`` is given.

    Parameters
    ----------
    name
        What is measured; unique in the suite together with ``params``.
    run
        Function to time. It is called with the result of ``setup``, or without one with ``params`` as
        keyword arguments. MLX arrays that it returns are evaluated within the clock.
    measure
        Function that returns metrics by name, such as ``{"perplexity": 12.3}``; called once, with the same
        arguments as ``run``.
    command
        Words of a command to time. If the last line it prints is a JSON object, the numbers in it are the
        metrics instead, and it runs once; ``{"missing": "torch"}`` says that something is not installed, and
        ``"peak_rss_bytes"`` is its peak memory.
    params
        Parameters, plain values that tell cases of the same name apart.
    setup
        Called with ``params`` as keyword arguments before the clock starts.
    units
        Amount of work per call, for the throughput.
    unit
        Name of the unit in the plural, such as ``"tokens"``.
    group
        Cases of the same group are compared with the best of them in tables.
    metrics
        Numbers of a command's object that are metrics; by default all. The others are details.
    higher_is_better
        Metrics that should be high; all others, and times, should be low.
    same
        Metrics or details that must equal those of the first case of the group, with a relative tolerance:
        cases that do not do the same work are marked in tables.
    """

    name: str
    run: Callable[..., object] | None = None
    measure: Callable[..., Mapping[str, float]] | None = None
    command: Sequence[str] | None = None
    params: Settings = field(default_factory=dict[str, Any])
    setup: Callable[..., object] | None = None
    units: float | None = None
    unit: str = "calls"
    group: str | None = None
    metrics: Sequence[str] | None = None
    higher_is_better: Sequence[str] = ()
    same: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def id(self) -> str:
        """Name with parameters, such as ``matmul[size=256]``."""
        values = ",".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.name}[{values}]" if values else self.name

    def check(self) -> None:
        """Validate the case.

        Raises
        ------
        ConfigError
            If fields contradict each other or have the wrong type.
        """
        if not _is_plain(self.params):
            message = (
                f"the case `{self.name}` has `params` that are not names with plain values "
                "(text, numbers, true or false)"
            )
            raise ConfigError(message)
        if reason := self._find_contradiction():
            message = f"the case `{self.id}` {reason}"
            raise ConfigError(message)

    def _find_contradiction(self) -> str | None:
        given = [kind for kind in ("run", "measure", "command") if getattr(self, kind) is not None]
        words = self.command
        if len(given) != 1:
            return f"needs one of `run`, `measure` and `command`, not {' and '.join(given) or 'none'}"
        if words is not None and (isinstance(words, str) or {type(word) for word in words} != {str}):
            return 'has a `command` that is no list of words, such as ["python", "job.py"]'
        if words is not None and self.setup is not None:
            return "has a `setup`, which a `command` cannot use"
        if self.same and self.group is None:
            return "has values that must be the `same`, but no `group`"
        if self.units is not None and not self.units > 0:
            return f"has {self.units} `units`, which must be above 0"
        return None

    def describe(self) -> dict[str, Any]:
        """Return what can be told without running the case, as a JSON object."""
        return {
            "case": self.id,
            "params": dict(self.params),
            "kind": next(kind for kind in ("run", "measure", "command") if getattr(self, kind) is not None),
            "units": self.units,
            "unit": self.unit,
            "group": self.group,
            "higher_is_better": list(self.higher_is_better),
            "same": dict(self.same),
        }


def _is_plain(params: object) -> bool:
    if not isinstance(params, Mapping):
        return False
    values = cast("Mapping[object, object]", params)
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return all(isinstance(value, str | int | float | bool | None) for value in values.values())
