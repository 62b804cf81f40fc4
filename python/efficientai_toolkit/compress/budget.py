"""Budgets: what a compressed model may need, relative to the original."""

from collections.abc import Mapping
from dataclasses import dataclass

from efficientai_toolkit.exceptions import ConfigError

QUANTITIES: Mapping[str, str] = {
    "size": "size of the weights on disk",
    "latency": "time per generated token",
    "memory": "peak memory while generating",
}
"""What a budget limits, by key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Limits as fractions of the original's values."""

    limits: Mapping[str, float]
    """By key of :data:`QUANTITIES`; those without a limit are missing."""

    @classmethod
    def parse(cls, text: str | None) -> "Budget":
        """Read a budget such as ``size=0.25,latency=0.5``.

        Raises
        ------
        ConfigError
            If a key is unknown or repeated, or a value is no fraction.
        """
        limits: dict[str, float] = {}
        for part in [] if text is None else text.split(","):
            key, equals, value = (word.strip() for word in part.partition("="))
            if key not in QUANTITIES or not equals:
                known = ", ".join(QUANTITIES)
                message = f"`budget` has {part.strip()!r}; it takes pairs such as size=0.25 of {known}"
                raise ConfigError(message)
            if key in limits:
                message = f"`budget` names {key} twice"
                raise ConfigError(message)
            try:
                limits[key] = float(value)
            except ValueError:
                limits[key] = 0.0
            if not 0 < limits[key] <= 1:
                message = (
                    f"`budget` must have fractions of the original above 0 and at most 1, not {part.strip()}"
                )
                raise ConfigError(message)
        return cls(limits=limits)

    def find_excess(self, ratios: Mapping[str, float]) -> dict[str, float]:
        """Return by how much limits are exceeded, relative to them; only those that are.

        ``ratios`` are values relative to the original; those that are missing count as met.
        """
        return {
            key: ratios[key] / limit - 1
            for key, limit in self.limits.items()
            if key in ratios and ratios[key] > limit
        }
