"""Events of federated runs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """A round of a federated run was completed."""

    round: int
    """1-based."""
    rounds: int
    """Total number of rounds."""
    clients: int
    """Number of clients whose updates counted."""
    rejected: int
    """Number of clients that were asked and did not count."""
    train_loss: float | None
    """Mean training loss of the clients."""
    loss: float | None
    """Validation loss of the global model."""
    perplexity: float | None
    """``exp(loss)``."""
    seconds: float
    """Seconds of the round."""
