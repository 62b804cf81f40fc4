"""Configuration of hyperparameter searches."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SearchConfig(Config):
    """Base class of search configurations; subclasses define the objectives."""

    known_objectives: ClassVar[tuple[str, ...]] = ()

    search_space: str | None = setting(None, "YAML, JSON or TOML file of what to try for which setting")
    trials: int = setting(20, "runs in all, those of a resumed search included")
    timeout_minutes: float | None = setting(None, "start no further run after this time (default: never)")
    objectives: list[str] = setting([], "what to make small", separator=",")
    sampler: Literal["tpe", "gp", "random"] = setting(
        "tpe", "how settings are chosen: Parzen estimators, a Gaussian process, or at random"
    )
    pruner: Literal["median", "hyperband", "none"] = setting(
        "median", "when a run that lags behind is stopped; with several objectives none is"
    )
    evaluations: int = setting(5, "validations within each run; pruning looks at them")

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
