"""Bounded updates: one norm over all tensors."""

import math
from typing import Any

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.arrays import Layout, Update


def clip(
    update: Update, max_norm: float, *, client: str = "the update"
) -> tuple[dict[str, np.ndarray[Any, Any]], float]:
    """Scale an update to at most ``max_norm``, the Euclidean norm over all tensors.

    Parameters
    ----------
    update
        Arrays by name; integers are not part of it.
    max_norm
        Bound of the norm.
    client
        Name of the client in errors.

    Returns
    -------
    tuple
        The update in float64, so that rounding cannot lift it above the bound, and the norm it had.

    Raises
    ------
    ConfigError
        If the bound is not positive, or the update has integers or is not finite.
    """
    if not (math.isfinite(max_norm) and max_norm > 0):
        message = f"max_norm is {max_norm}, expected a positive number"
        raise ConfigError(message)
    norm = compute_norm(update, client=client)
    # The product may round upwards, by one unit in the last place.
    factor = 1.0 if norm <= max_norm else max_norm / norm * (1 - 1e-15)
    return {name: np.asarray(value).astype(np.float64) * factor for name, value in update.items()}, norm


def compute_norm(update: Update, *, client: str = "the update") -> float:
    """Compute the Euclidean norm over all tensors in float64.

    Raises
    ------
    ConfigError
        If the update has integers, or is not finite.
    """
    layout = Layout.of(update, client)
    if whole := [name for name, dtype in layout.dtypes.items() if dtype.kind in "iu"]:
        message = f"{client}: {whole[0]} is of integers, which cannot be clipped; leave it out of the update"
        raise ConfigError(message)
    total = 0.0
    for name, value in update.items():
        wide = np.asarray(value).astype(np.float64).ravel()
        part = float(wide @ wide)
        if not math.isfinite(part):
            message = f"{client}: {name} is not finite"
            raise ConfigError(message)
        total += part
    return math.sqrt(total)


class AdaptiveClip:
    """A clipping norm that follows a quantile of the norms of updates.

    Andrew et al. 2021, `arXiv:1905.03871 <https://arxiv.org/abs/1905.03871>`_:
    ``C ← C·exp(-lr·(b - quantile))`` with ``b`` the share of updates of norm at most ``C``, noisy too.

    Parameters
    ----------
    norm
        First clipping norm.
    quantile
        Share of updates that are not clipped.
    learning_rate
        Learning rate of the logarithm of the norm.
    count_noise
        Standard deviation of the noise on the number of updates within the norm; a twentieth of the clients
        of a round is usual. With it part of the privacy is spent on that number.
    """

    def __init__(
        self, norm: float, *, quantile: float = 0.5, learning_rate: float = 0.2, count_noise: float = 0.0
    ) -> None:
        for name, value in (("norm", norm), ("learning_rate", learning_rate)):
            if not (math.isfinite(value) and value > 0):
                message = f"{name} is {value}, expected a positive number"
                raise ConfigError(message)
        if not 0 <= quantile <= 1:
            message = f"quantile is {quantile}, expected 0 to 1"
            raise ConfigError(message)
        if not (math.isfinite(count_noise) and count_noise >= 0):
            message = f"count_noise is {count_noise}, expected 0 or a positive number"
            raise ConfigError(message)
        self.norm = norm
        self.quantile = quantile
        self.learning_rate = learning_rate
        self.count_noise = count_noise

    def sum_noise_multiplier(self, noise_multiplier: float) -> float:
        """Return the noise multiplier of the sum, so that sum and count together have ``noise_multiplier``.

        Raises
        ------
        ConfigError
            If the noise of the count is too small for that.
        """
        if noise_multiplier == 0:
            return 0.0
        # A count changes by half when indicators are centred, hence the factor of two.
        left = noise_multiplier**-2 - (2 * self.count_noise) ** -2 if self.count_noise > 0 else -1.0
        if left <= 0:
            message = (
                f"count_noise is {self.count_noise}, expected more than half of noise_multiplier, "
                f"{noise_multiplier / 2:g}: the count would reveal more than the whole round may"
            )
            raise ConfigError(message)
        return 1 / math.sqrt(left)

    def update(self, within: int, count: int, rng: np.random.Generator) -> float:
        """Move the norm after a round with ``count`` updates, ``within`` of them not above it.

        Returns
        -------
        float
            The new norm.
        """
        if not 0 <= within <= count:
            message = f"within is {within}, expected 0 to {count}"
            raise ConfigError(message)
        if count:
            noisy = within - count / 2 + float(rng.normal(0.0, self.count_noise))
            share = noisy / count + 0.5
            self.norm *= math.exp(-self.learning_rate * (share - self.quantile))
        return self.norm
