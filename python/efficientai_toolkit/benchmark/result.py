"""Results of cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from efficientai_toolkit._base.display import Displayed

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Result(Displayed):
    """Measurements of a case in one process."""

    case: str
    """Name of the case with its parameters."""
    process: int
    """Number of the process, from 0."""
    status: Status
    reason: str | None = None
    """Why the case failed or was skipped."""
    metrics: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Samples by metric; ``seconds`` are times per call."""
    number: int = 1
    """Calls per sample."""
    memory: int | None = None
    """Peak resident memory in bytes beyond that at the start of the process."""
    mlx_memory: int | None = None
    """Peak memory of MLX's allocator in bytes; ``None`` if the case does not use MLX."""
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    """What a command reported beside numbers."""
    load_before: float | None = None
    load_after: float | None = None
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    units: float | None = None
    unit: str = "calls"
    group: str | None = None
    higher_is_better: list[str] = field(default_factory=list[str])
    same: dict[str, float] = field(default_factory=dict[str, float])
    """Values that must equal those of the first case of the group, with their tolerance."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Run(Displayed):
    """A run of a suite, with its results in the order in which they were measured."""

    id: int
    suite: str
    """Name of the suite."""
    source: str
    arguments: dict[str, Any]
    name: str | None
    """Name as a baseline."""
    started: str
    """UTC time in ISO 8601."""
    finished: str | None
    """``None`` if the run was interrupted or goes on."""
    config: dict[str, Any]
    environment: dict[str, Any]
    results: list[Result]

    def cases(self) -> "dict[str, list[Result]]":
        """Return the results of all processes by case."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            found.setdefault(result.case, []).append(result)
        return found


def pool(results: Sequence[Result], metric: str) -> list[float]:
    """Return the samples of a metric over all processes."""
    return [value for result in results for value in result.metrics.get(metric, ())]


def list_metrics(results: Sequence[Result]) -> list[str]:
    """Return the metrics of a case in order."""
    return list(dict.fromkeys(metric for result in results for metric in result.metrics))


def result_from(description: Mapping[str, Any], process: int, measured: Mapping[str, Any]) -> Result:
    """Build a result from the description of a case and what its process returned."""
    known = ("case", "params", "units", "unit", "group", "higher_is_better", "same")
    return Result(**{name: description[name] for name in known}, process=process, **measured)
