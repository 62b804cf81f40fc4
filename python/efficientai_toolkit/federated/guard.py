"""Central differential privacy of a run: what it assumes is enforced, and it ends before its budget does."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.privacy.accounting import noise_multiplier
from efficientai_toolkit.federated.privacy.budget import Budget, BudgetExceededError
from efficientai_toolkit.federated.privacy.noise import PrivateSum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from efficientai_toolkit.federated.config import FederatedConfig


@dataclass(kw_only=True, slots=True)
class PrivacyGuard:
    """Clipping, noise and the budget of a run.

    Parameters
    ----------
    clip
        Bound of the norm of an update over all arrays.
    noise
        Standard deviation of the noise on the sum of a round, divided by ``clip``.
    rate
        Probability with which each client is in a round.
    budget
        Bound of the whole run, if it has one.
    """

    clip: float
    noise: float
    rate: float
    budget: Budget | None = None

    def start(self) -> "PrivateCombiner":
        """Return what takes the updates of a round in."""
        return PrivateCombiner(PrivateSum(self.clip, self.noise))

    def allows(self) -> bool:
        """Return whether one more round stays within the budget."""
        return self.budget is None or self.budget.allows(self.noise, self.rate)

    def spend(self) -> bool:
        """Count a round, before anybody is asked; return whether the budget allows it."""
        if not self.allows():
            return False
        if self.budget is not None:
            self.budget.spend(self.noise, self.rate)
        return True


class PrivateCombiner:
    """The noisy mean of clipped updates, each of which counts once."""

    def __init__(self, total: PrivateSum) -> None:
        self._total = total

    def add(self, change: "dict[str, NDArray[Any]]", weight: float, node: int) -> None:  # noqa: ARG002
        """Clip and add an update."""
        self._total.add(change, client=f"client {node}")

    def finish(self) -> "dict[str, NDArray[Any]]":
        """Return the noisy mean."""
        return self._total.mean()


def build_guard(config: "FederatedConfig") -> PrivacyGuard | None:
    """Return the guard of a configuration, if it asks for privacy.

    Raises
    ------
    ConfigError
        If a setting contradicts what the accounting assumes, or the budget is below one round.
    """
    if config.dp_epsilon is None and config.dp_noise_multiplier is None:
        return None
    wanted = {
        "rule": ("fedavg", "noise is accounted for on a sum of all updates"),
        "pre_aggregation": ("none", "noise is accounted for on a sum of all updates"),
        "weighting": ("uniform", "a client that counts more shows more"),
        "selection": (
            "poisson",
            "accounting assumes that each client is in a round with the same probability",
        ),
        "over_selection": (0.0, "who replies first is not who was drawn"),
    }
    for name, (value, why) in wanted.items():
        if (found := getattr(config, name)) != value:
            message = f"`{name}` must be {value!r} with differential privacy, not {found!r}: {why}"
            raise ConfigError(message)
    rate = min((config.clients_per_round or config.clients) / config.clients, 1.0)
    budget = None if config.dp_epsilon is None else Budget(config.dp_epsilon, config.dp_delta)
    if config.dp_noise_multiplier is not None:
        noise = config.dp_noise_multiplier
    else:
        noise = noise_multiplier(config.dp_epsilon or 0.0, rate, config.rounds, config.dp_delta)
    guard = PrivacyGuard(clip=config.dp_clip, noise=noise, rate=rate, budget=budget)
    if budget is not None and not guard.allows():
        spent = budget.after(noise, rate)
        message = (
            f"`dp_epsilon` is {budget.epsilon:g}, but the first round would spend {spent:.4g}; raise it, or "
            "`dp_noise_multiplier`"
        )
        raise BudgetExceededError(message)
    return guard
