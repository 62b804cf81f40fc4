"""Configuration of an analysis."""

from dataclasses import dataclass

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class AnalysisConfig(Config):
    """Configuration of :func:`efficientai_toolkit.lora.analyze`."""

    batches: int = setting(16, "number of training batches for the gradient")
    width: int = setting(64, "maximum rank of a layer: number of singular values computed of its gradient")
    max_rank: float = setting(16.0, "maximum mean rank of all layers")
    steps: int = setting(
        15,
        "optimizer steps of the first short runs, doubled in each round up to those of the full run",
    )
    tolerance: float = setting(
        0.5,
        "choose the fewest parameters whose predicted loss is within this % of the best uniform rank",
    )
    plots: bool = setting(True, "draw ranks.png; needs matplotlib")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a number is out of range.
        """
        for name in ("batches", "width", "max_rank", "steps"):
            if getattr(self, name) < 1:
                message = f"`{name}` must be at least 1, not {getattr(self, name)}"
                raise ConfigError(message)
        if self.width < self.max_rank:
            message = f"`width` must be at least `max_rank` ({self.max_rank:g}), not {self.width}"
            raise ConfigError(message)
        if self.tolerance < 0:
            message = f"`tolerance` must not be below 0, but is {self.tolerance}"
            raise ConfigError(message)
