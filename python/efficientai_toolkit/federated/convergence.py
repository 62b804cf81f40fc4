"""Whether further rounds are worth it."""

import math
from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class Convergence:
    """Monitor of the loss after each round.

    Parameters
    ----------
    patience
        Rounds without an improvement after which the run stops; ``None``: never.
    threshold
        Smallest decrease of the loss that counts as an improvement.
    """

    patience: int | None = None
    threshold: float = 0.0
    best: float = math.inf
    best_round: int = 0

    def observe(self, round_number: int, loss: float | None) -> bool:
        """Take the loss after a round in, and return whether to stop."""
        if loss is None or not math.isfinite(loss):
            return False
        if loss < self.best - self.threshold:
            self.best, self.best_round = loss, round_number
        return self.patience is not None and round_number - self.best_round >= self.patience
