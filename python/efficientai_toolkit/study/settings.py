"""Configuration of hyperparameter searches."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SearchConfig(Config):
    """Base class of search configurations; subclasses define the objectives."""

    known_objectives: ClassVar[tuple[str, ...]] = ()

    search_space: str | None = setting(None, "search space, a YAML, JSON or TOML file")
    trials: int = setting(20, "total number of trials, including those of a resumed search")
    timeout_minutes: float | None = setting(
        None, "time limit after which no trial is started (default: none)"
    )
    objectives: list[str] = setting([], "objectives to minimize", separator=",")
    sampler: Literal["tpe", "gp", "random"] = setting(
        "tpe", "sampler: Parzen estimators (TPE), a Gaussian process, or random"
    )
    pruner: Literal["median", "hyperband", "none"] = setting(
        "median", "pruner that stops bad trials early; not used with several objectives"
    )
    evaluations: int = setting(5, "evaluations per trial, used for pruning")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If an objective is unknown or repeated, or a number is out of range.
        """
        for name in self.objectives:
            if name not in self.known_objectives:
                known = ", ".join(self.known_objectives)
                message = f"`objectives` names the unknown `{name}`; there are {known}"
                raise ConfigError(message)
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            message = f"`objectives` must name each of its objectives once, not {self.objectives}"
            raise ConfigError(message)
        if self.sampler == "gp" and len(self.objectives) > 1:
            message = "`sampler` gp works for one objective; take tpe for several"
            raise ConfigError(message)
        for name in ("trials", "evaluations"):
            if getattr(self, name) < 1:
                message = f"`{name}` must be at least 1, not {getattr(self, name)}"
                raise ConfigError(message)
        if self.timeout_minutes is not None and self.timeout_minutes <= 0:
            message = f"`timeout_minutes` must be above 0, not {self.timeout_minutes}"
            raise ConfigError(message)
