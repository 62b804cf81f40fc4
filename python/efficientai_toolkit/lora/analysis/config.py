"""Configuration of an analysis."""

from dataclasses import dataclass

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class AnalysisConfig(Config):
    """Configuration of :func:`efficientai_toolkit.lora.analyze`."""

    batches: int = setting(16, "batches of the training data whose gradient is looked at")
    width: int = setting(64, "largest rank of a layer: so many singular values of its gradient are found")
    max_rank: float = setting(16.0, "largest mean rank of all layers, whatever the data could fill")
    steps: int = setting(
        15,
        "optimizer steps of the first short runs; each later round has twice as many, up to those of the run",
    )
    tolerance: float = setting(
        0.5,
        "the fewest parameters win whose validation loss will be within so many % of the best usual rank's",
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
