"""Configuration of a hyperparameter search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from efficientai_toolkit._base.config import setting
from efficientai_toolkit.lora.result import TrainingResult
from efficientai_toolkit.study.settings import SearchConfig

OBJECTIVES: dict[str, Callable[[TrainingResult], float]] = {
    "loss": lambda result: float(result.metrics["loss_after"]),
    "time": lambda result: result.training_time,
    "memory": lambda result: result.peak_memory_gb,
    "parameters": lambda result: float(result.metrics["trainable_parameters"]),
}
"""Objectives to minimize: validation loss in nats, seconds, GB, trainable parameters."""

LABELS = {
    "loss": "validation loss, nats",
    "time": "time, s",
    "memory": "peak memory, GB",
    "parameters": "trained",
}
"""Axis labels of the objectives."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class OptimizationConfig(SearchConfig):
    """Configuration of :func:`efficientai_toolkit.lora.optimize`."""

    known_objectives: ClassVar[tuple[str, ...]] = tuple(OBJECTIVES)

    search_space: str | None = setting(
        None,
        "search space, a YAML, JSON or TOML file (default: lr, rank, dropout and batch size)",
    )
    objectives: list[str] = setting(
        ["loss"], f"objectives to minimize, among {', '.join(OBJECTIVES)}", separator=","
    )
