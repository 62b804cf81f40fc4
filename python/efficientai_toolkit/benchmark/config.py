"""Configuration of benchmark runs."""

from dataclasses import dataclass

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError

ENOUGH_PROCESSES = 5
"""Fewest processes per side whose rank test can find a difference at the level of 1 %: 2 / 252 = 0.008."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class BenchmarkConfig(Config):
    """How cases are measured."""

    repeats: int = setting(5, "fewest samples per process")
    min_time: float = setting(0.5, "least measured seconds per process")
    warmup: float = setting(0.1, "seconds of warm-up per process, at least one call")
    processes: int = setting(1, "processes per case, in rounds of alternating order")
    timeout: float = setting(1800.0, "seconds after which a process is ended")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a number is out of range.
        """
        for name, least, most in (("repeats", 1, 10_000), ("processes", 1, 1000)):
            if not least <= getattr(self, name) <= most:
                message = f"`{name}` must be from {least} to {most}, not {getattr(self, name)}"
                raise ConfigError(message)
        for name in ("min_time", "warmup"):
            if getattr(self, name) < 0:
                message = f"`{name}` must not be negative, not {getattr(self, name)}"
                raise ConfigError(message)
        if self.timeout <= 0:
            message = f"`timeout` must be above 0, not {self.timeout}"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ComparisonConfig(BenchmarkConfig):
    """How two sides are compared in turns."""

    processes: int = setting(10, "rounds: in each both sides run once, in alternating order")
