"""A bound that a run keeps."""

import math
from collections.abc import Mapping
from typing import Any

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.privacy.accounting import check_delta, check_mechanism, compose


class BudgetExceededError(ConfigError):
    """A round would exceed the privacy budget."""


class Budget:
    """Privacy budget of a run, which is asked *before* every round.

    >>> budget = Budget(epsilon=8.0, delta=1e-5)
    >>> while budget.allows(1.0, 0.1):  # doctest: +SKIP
    ...     budget.spend(1.0, 0.1)

    Parameters
    ----------
    epsilon, delta
        Bound of the whole run.
    """

    def __init__(self, epsilon: float, delta: float) -> None:
        if not epsilon > 0:
            message = f"epsilon is {epsilon}, expected a positive number"
            raise ConfigError(message)
        check_delta(delta)
        self.epsilon = epsilon
        self.delta = delta
        self._rounds: dict[tuple[float, float], int] = {}

    @property
    def rounds(self) -> int:
        """Number of rounds so far."""
        return sum(self._rounds.values())

    @property
    def spent(self) -> float:
        """ε so far."""
        return compose(self._rounds, self.delta)

    def after(self, noise_multiplier: float, sampling_rate: float) -> float:
        """Return ε after one round more."""
        return compose(self._with(noise_multiplier, sampling_rate), self.delta)

    def allows(self, noise_multiplier: float, sampling_rate: float) -> bool:
        """Return whether one round more stays within the budget."""
        rounds = self._with(noise_multiplier, sampling_rate)
        # The fast bound is often enough; the tight one says where the budget really ends.
        return (
            compose(rounds, self.delta, accountant="rdp") <= self.epsilon
            or compose(rounds, self.delta, accountant="pld") <= self.epsilon
        )

    def spend(self, noise_multiplier: float, sampling_rate: float) -> None:
        """Count one round more; call it before anything of the round is published.

        Raises
        ------
        BudgetExceededError
            If the round would exceed the budget; it is not counted.
        """
        if not self.allows(noise_multiplier, sampling_rate):
            after = self.after(noise_multiplier, sampling_rate)
            message = (
                f"round {self.rounds + 1} would spend ε = {after:.4g} of {self.epsilon:g} at "
                f"δ = {self.delta:g}: stop here, or raise noise_multiplier from the start"
            )
            raise BudgetExceededError(message)
        self._rounds = self._with(noise_multiplier, sampling_rate)

    def _with(self, noise_multiplier: float, sampling_rate: float) -> dict[tuple[float, float], int]:
        check_mechanism(noise_multiplier, sampling_rate)
        key = (float(noise_multiplier), float(sampling_rate))
        return {**self._rounds, key: self._rounds.get(key, 0) + 1}

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON can express it."""
        rounds = [[noise, rate, count] for (noise, rate), count in self._rounds.items()]
        return {"epsilon": self.epsilon, "delta": self.delta, "rounds": rounds}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Budget":
        """Return the budget whose :meth:`state` this is.

        Raises
        ------
        ConfigError
            If it is none.
        """
        try:
            budget = cls(float(state["epsilon"]), float(state["delta"]))
            rounds = [(float(noise), float(rate), int(count)) for noise, rate, count in state["rounds"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            message = f"the state of a privacy budget is damaged ({error!r})"
            raise ConfigError(message) from error
        for noise, rate, count in rounds:
            check_mechanism(noise, rate)
            if count < 0 or not math.isfinite(count):
                message = f"the state of a privacy budget has {count} rounds"
                raise ConfigError(message)
            budget._rounds[noise, rate] = count
        return budget
