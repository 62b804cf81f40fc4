"""What rounds of noisy sums reveal, by Google's ``dp-accounting``."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from efficientai_toolkit._base.extras import require
from efficientai_toolkit.exceptions import ConfigError

Accountant = Literal["best", "rdp", "pld"]
"""Rényi differential privacy, the privacy loss distribution, or the smaller of both."""

_PLD_LIMIT = 50.0
"""Epsilon by RDP above which no distribution is computed: it needs gigabytes, and the guarantee is empty."""

_TOLERANCE = 1e-4
"""Relative error of a calibrated noise multiplier."""

Rounds = Mapping[tuple[float, float], int]
"""Number of rounds by noise multiplier and sampling rate."""


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    rounds: int,
    delta: float,
    *,
    accountant: Accountant = "best",
) -> float:
    """Compute ε of rounds of noisy sums at δ.

    The guarantee holds if every client takes part in a round by an independent draw (Poisson sampling),
    counts once whatever its number of examples, is clipped to the norm C, and the sum has Gaussian noise
    of standard deviation ``noise_multiplier`` · C. Two sets of clients are neighbours if one has one more.

    Parameters
    ----------
    noise_multiplier
        Standard deviation of the noise on the sum, divided by the clipping norm.
    sampling_rate
        Probability that a client takes part in a round.
    rounds
        Number of rounds.
    delta
        Probability δ that the bound fails; below one over the number of clients.
    accountant
        ``"rdp"`` (fast), ``"pld"`` (tight), or ``"best"``, the smaller of both, which both are bounds.

    Returns
    -------
    float
        ε ≥ 0; infinite without noise.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    DependencyError
        If ``dp-accounting`` is not installed.
    """
    check_mechanism(noise_multiplier, sampling_rate)
    if rounds < 0:
        message = f"rounds is {rounds}, but must not be negative"
        raise ConfigError(message)
    return compose({(noise_multiplier, sampling_rate): rounds}, delta, accountant=accountant)


def compose(rounds: Rounds, delta: float, *, accountant: Accountant = "best") -> float:
    """Compute ε of rounds that differ in noise and sampling; see :func:`epsilon`."""
    check_delta(delta)
    if accountant not in ("best", "rdp", "pld"):
        message = f"accountant is {accountant!r}, expected 'best', 'rdp' or 'pld'"
        raise ConfigError(message)
    taken = {key: count for key, count in rounds.items() if count > 0 and key[1] > 0}
    if not taken:
        return 0.0
    if any(noise == 0 for noise, _ in taken):
        return math.inf
    by_rdp = _by("rdp", taken, delta)
    if accountant == "rdp" or by_rdp > _PLD_LIMIT:
        return by_rdp
    by_pld = _by("pld", taken, delta)
    return by_pld if accountant == "pld" else min(by_rdp, by_pld)


def _by(name: Literal["rdp", "pld"], rounds: Rounds, delta: float) -> float:
    library = _library()
    accountant = _fresh(name)
    for (noise, rate), count in rounds.items():
        accountant.compose(_event(library, noise, rate), count)
    return max(0.0, float(accountant.get_epsilon(delta)))


def _library() -> Any:
    return require("dp_accounting", extra="federated", purpose="accounting for privacy")


def _fresh(name: str) -> Any:
    if name == "rdp":
        module = require("dp_accounting.rdp", extra="federated", purpose="accounting for privacy")
        return module.RdpAccountant()
    return require("dp_accounting.pld", extra="federated", purpose="accounting for privacy").PLDAccountant()


def _event(library: Any, noise: float, rate: float) -> Any:
    return library.PoissonSampledDpEvent(rate, library.GaussianDpEvent(noise))


def noise_multiplier(
    target_epsilon: float,
    sampling_rate: float,
    rounds: int,
    delta: float,
    *,
    accountant: Accountant = "best",
) -> float:
    """Compute the least noise with which rounds stay within ε.

    Parameters
    ----------
    target_epsilon
        Bound ε.
    sampling_rate, rounds, delta, accountant
        As in :func:`epsilon`.

    Returns
    -------
    float
        A noise multiplier with ``epsilon(noise_multiplier, …) <= target_epsilon``, at most 0.01 % above the
        least.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    DependencyError
        If ``dp-accounting`` is not installed.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        message = f"target_epsilon is {target_epsilon}, expected a positive number"
        raise ConfigError(message)
    check_mechanism(1.0, sampling_rate)

    def spent(noise: float, by: Accountant) -> float:
        return epsilon(noise, sampling_rate, rounds, delta, accountant=by)

    if spent(1.0, "rdp") == 0:
        return 0.0
    if accountant == "rdp":
        return _least(lambda noise: spent(noise, "rdp") <= target_epsilon, 1.0)
    start = _least(lambda noise: spent(noise, "rdp") <= target_epsilon, 1.0)
    # What RDP asks for is enough, and the distribution saves some of it.
    return _least(lambda noise: spent(noise, accountant) <= target_epsilon, start)


def _least(is_enough: Callable[[float], bool], start: float) -> float:
    """Return the least positive number that is enough, from above."""
    low, high = start, start
    while not is_enough(high):
        low, high = high, high * 2
    if low == high:
        low = high * 0.75
        while is_enough(low):
            low, high = low * 0.75, low
    while high / low > 1 + _TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def check_mechanism(noise: float, rate: float) -> None:
    """Check the settings of a round.

    Raises
    ------
    ConfigError
        If one is out of range.
    """
    if not (math.isfinite(noise) and noise >= 0):
        message = f"noise_multiplier is {noise}, expected 0 or a positive number"
        raise ConfigError(message)
    if not 0 <= rate <= 1:
        message = f"sampling_rate is {rate}, expected 0 to 1"
        raise ConfigError(message)


def check_delta(delta: float) -> None:
    """Check δ.

    Raises
    ------
    ConfigError
        If it is out of range.
    """
    if not 0 < delta < 1:
        message = f"delta is {delta}, expected above 0 and below 1, such as 1e-5"
        raise ConfigError(message)
