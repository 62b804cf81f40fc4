"""How updates become one: rules of the engine, for a round at once or as they come."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.aggregation import Accumulator, aggregate

if TYPE_CHECKING:
    from numpy.typing import NDArray

RuleName = Literal[
    "fedavg",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "bulyan",
    "geometric_median",
    "centered_clipping",
]
"""Rules for updates of equal standing."""

PreAggregation = Literal["none", "nnm", "bucketing"]
"""What a rule is given instead of the updates."""

_NEEDS_F = frozenset({"trimmed_mean", "krum", "multi_krum", "bulyan"})
_WEIGHTED = frozenset({"fedavg", "geometric_median"})


class Combiner(Protocol):
    """Takes updates in and makes one of them."""

    def add(self, change: "dict[str, NDArray[Any]]", weight: float, node: int) -> None:
        """Take an update in."""

    def finish(self) -> "dict[str, NDArray[Any]]":
        """Return the one update."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A rule and its options.

    Parameters
    ----------
    name
        Name of the rule.
    f
        Number of clients that may be hostile.
    weighting
        Weights of the updates of ``fedavg`` and ``geometric_median``: their ``examples``, or ``uniform``.
    pre_aggregation
        ``nnm``, nearest-neighbour mixing, or ``bucketing`` before the rule.
    options
        Further options of the rule, such as ``tau`` or ``m``.
    """

    name: RuleName = "fedavg"
    f: int = 0
    weighting: Literal["examples", "uniform"] = "examples"
    pre_aggregation: PreAggregation = "none"
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_streamed(self) -> bool:
        """Whether updates are folded in as they come, rather than kept."""
        return self.name == "fedavg" and self.pre_aggregation == "none"

    @property
    def least(self) -> int:
        """Smallest number of updates that the rule works with."""
        by_rule = {"trimmed_mean": 2 * self.f + 1, "krum": 2 * self.f + 3, "multi_krum": 2 * self.f + 3}
        found = 4 * self.f + 3 if self.name == "bulyan" else by_rule.get(self.name, 1)
        return max(found, 2 * self.f + 1 if self.pre_aggregation == "nnm" else 1)

    def refuse(self, count: int) -> str | None:
        """Return why ``count`` updates are too few."""
        if count >= self.least:
            return None
        return f"{count} updates are too few for {self.name} with f={self.f}, which needs {self.least}"

    def check(self, clients: int) -> None:
        """Check that the rule works with so many clients.

        Raises
        ------
        ConfigError
            If there are too few for ``f`` hostile ones.
        """
        if (reason := self.refuse(clients)) is not None:
            message = f"{reason}; lower `malicious`, or ask more clients in each round"
            raise ConfigError(message)

    def start(self) -> Combiner:
        """Return what takes the updates of a round in."""
        return _Mean(uniform=self.weighting == "uniform") if self.is_streamed else _Kept(self)


class _Mean:
    """The weighted mean, of updates that are not kept."""

    def __init__(self, *, uniform: bool) -> None:
        self._uniform = uniform
        self._accumulator = Accumulator()

    def add(self, change: "dict[str, NDArray[Any]]", weight: float, node: int) -> None:
        self._accumulator.add(change, 1.0 if self._uniform else weight, client=f"client {node}")

    def finish(self) -> "dict[str, NDArray[Any]]":
        return self._accumulator.average()


class _Kept:
    """A rule that has to see all updates."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._updates: list[dict[str, NDArray[Any]]] = []
        self._weights: list[float] = []

    def add(self, change: "dict[str, NDArray[Any]]", weight: float, node: int) -> None:  # noqa: ARG002
        self._updates.append(change)
        self._weights.append(weight)

    def finish(self) -> "dict[str, NDArray[Any]]":
        rule = self._rule
        options = dict(rule.options)
        if rule.name in _NEEDS_F or rule.pre_aggregation == "nnm":
            options["f"] = rule.f
        if rule.pre_aggregation != "none":
            options["pre_aggregation"] = rule.pre_aggregation
        is_weighted = (
            rule.name in _WEIGHTED and rule.weighting == "examples" and rule.pre_aggregation == "none"
        )
        return aggregate(self._updates, self._weights if is_weighted else None, rule.name, **options)
