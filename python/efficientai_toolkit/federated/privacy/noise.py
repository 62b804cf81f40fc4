"""Noisy sums of clipped updates."""

import math
import secrets
from typing import Any

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.arrays import Layout, Update
from efficientai_toolkit.federated.privacy.clipping import clip


def create_generator() -> np.random.Generator:
    """Return a generator of noise whose seed nobody knows."""
    return np.random.default_rng(secrets.randbits(256))


def add_noise(
    update: Update, standard_deviation: float, rng: np.random.Generator
) -> dict[str, np.ndarray[Any, Any]]:
    """Add Gaussian noise to every number, in float64.

    Raises
    ------
    ConfigError
        If the standard deviation is negative or not finite.
    """
    if not (math.isfinite(standard_deviation) and standard_deviation >= 0):
        message = f"standard_deviation is {standard_deviation}, expected 0 or a positive number"
        raise ConfigError(message)
    wide = {name: np.asarray(value).astype(np.float64) for name, value in update.items()}
    if standard_deviation == 0:
        return wide
    return {name: value + rng.normal(0.0, standard_deviation, value.shape) for name, value in wide.items()}


class PrivateSum:
    """Mean of clipped updates with noise on their sum, for updates that come one by one.

    Every client counts once, and noise of standard deviation ``noise_multiplier · clip_norm`` is added to the
    sum, however many replied: that of the mean is this divided by the replies. It is what
    :func:`~efficientai_toolkit.federated.privacy.epsilon` assumes. Noise is drawn in floating point.

    Parameters
    ----------
    clip_norm
        Bound of the norm of an update.
    noise_multiplier
        Standard deviation of the noise, divided by ``clip_norm``.
    rng
        Generator of the noise; one with an unknown seed by default.
    """

    def __init__(
        self, clip_norm: float, noise_multiplier: float, *, rng: np.random.Generator | None = None
    ) -> None:
        if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
            message = f"noise_multiplier is {noise_multiplier}, expected 0 or a positive number"
            raise ConfigError(message)
        self.clip_norm = clip_norm
        self.noise_multiplier = noise_multiplier
        self.count = 0
        """Number of updates so far."""
        self.within = 0
        """Number of them that were not clipped."""
        self._rng = create_generator() if rng is None else rng
        self._layout: Layout | None = None
        self._sums: dict[str, np.ndarray[Any, Any]] = {}

    def add(self, update: Update, *, client: str | None = None) -> None:
        """Clip and add an update.

        Raises
        ------
        ConfigError
            If it is not like earlier ones or not finite; nothing of it is counted then.
        """
        name = f"client {self.count}" if client is None else client
        layout = Layout.of(update, name) if self._layout is None else self._layout
        layout.read(update, name)
        clipped, norm = clip(update, self.clip_norm, client=name)
        self._layout = layout
        for key, value in clipped.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value
        self.count += 1
        self.within += norm <= self.clip_norm

    def mean(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the noisy mean, in the dtypes of the updates; call it once, since noise is drawn anew.

        Raises
        ------
        ConfigError
            If no update was added.
        """
        if self._layout is None:
            message = "no update was added, so that there is no mean"
            raise ConfigError(message)
        noisy = add_noise(self._sums, self.noise_multiplier * self.clip_norm, self._rng)
        return {name: (noisy[name] / self.count).astype(dtype) for name, dtype in self._layout.dtypes.items()}
