"""Runs beside each other: what differs, and what came of it."""

from dataclasses import dataclass
from typing import Any

from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.study.folder import FOLDER_SETTINGS
from efficientai_toolkit.trackers.settings import flatten


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Runs beside each other; lists have a value per run, ``None`` where it has none."""

    runs: list[Run]
    settings: dict[str, list[Any]]
    """Settings, versions, hardware and data that differ."""
    metrics: dict[str, list[float | None]]
    """Final metrics."""


def compare(*runs: Run) -> Comparison:
    """Compare two runs or more.

    Raises
    ------
    ConfigError
        If there are fewer.
    """
    if len(runs) < 2:  # noqa: PLR2004
        message = f"a comparison needs at least two runs, not {len(runs)}"
        raise ConfigError(message)
    described = [_describe(run) for run in runs]
    names = dict.fromkeys(name for values in described for name in values)
    settings = {name: [values.get(name) for values in described] for name in names}
    metrics = dict.fromkeys(name for run in runs for name in run.result)
    return Comparison(
        runs=list(runs),
        settings={
            name: values for name, values in settings.items() if any(value != values[0] for value in values)
        },
        metrics={name: [run.result.get(name) for run in runs] for name in metrics},
    )


def _describe(run: Run) -> dict[str, Any]:
    settings = flatten(run.configuration)
    return {
        "kind": run.kind,
        **{name: x for name, x in settings.items() if name.rpartition(".")[2] not in FOLDER_SETTINGS},
        **{f"environment.{name}": x for name, x in run.environment.items()},
        **{f"hardware.{name}": x for name, x in run.hardware.items()},
        **{f"data.{name}": x for name, x in run.data.items()},
    }
