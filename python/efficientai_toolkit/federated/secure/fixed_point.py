"""Numbers modulo a power of two: their sums are exact, so that masks cancel to the last bit."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientai_toolkit.exceptions import ConfigError

_MANTISSA = 52
"""Bits of a whole number that float64 tells from its neighbours."""

Words = np.ndarray[Any, np.dtype[np.uint64]]
"""Numbers modulo 2⁶⁴."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedPoint:
    """Whole numbers modulo 2⁶⁴ for numbers of bounded magnitude.

    Parameters
    ----------
    bound
        Largest magnitude of a number; larger ones are clipped.
    fraction_bits
        Bits behind the binary point.
    clients
        Most summands, whose sum must not wrap.
    """

    bound: float
    fraction_bits: int = 24
    clients: int

    def __post_init__(self) -> None:
        """Check that sums fit."""
        if not (math.isfinite(self.bound) and self.bound > 0):
            message = f"bound is {self.bound}, expected a positive number"
            raise ConfigError(message)
        if not 0 <= self.fraction_bits <= _MANTISSA or self.clients < 1:
            message = (
                f"fraction_bits is {self.fraction_bits} and clients {self.clients}, "
                f"expected 0 to {_MANTISSA} and at least 1"
            )
            raise ConfigError(message)
        if self.bound * 2.0**self.fraction_bits * self.clients >= 2.0**63 or self._limit > 2.0**_MANTISSA:
            message = (
                f"sums of {self.clients} numbers up to {self.bound:g} with {self.fraction_bits} fraction "
                "bits do not fit: lower bound or fraction_bits"
            )
            raise ConfigError(message)

    @property
    def _limit(self) -> float:
        return math.floor(self.bound * 2.0**self.fraction_bits)

    def encode(self, values: np.ndarray[Any, Any]) -> Words:
        """Round to the nearest whole number of units.

        Raises
        ------
        ConfigError
            If a number is not finite.
        """
        wide = np.asarray(values).astype(np.float64)
        if not np.isfinite(wide).all():
            message = "a number is not finite, and would spoil the sum of all"
            raise ConfigError(message)
        units = np.clip(np.rint(wide * 2.0**self.fraction_bits), -self._limit, self._limit)
        return units.astype(np.int64).view(np.uint64)

    def decode(self, total: Words) -> np.ndarray[Any, Any]:
        """Return the sum as float64."""
        return np.asarray(total).view(np.int64).astype(np.float64) / 2.0**self.fraction_bits
