"""Result of a federated run."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.callbacks.run import numbers
from efficientai_toolkit.federated.rounds import RoundReport


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Comparison(Displayed):
    """Perplexity on the test file, after as many passes over the rows in each case."""

    before: float
    """Of the model without an adapter."""
    federated: float
    """Of the global adapter."""
    central: float | None
    """Of one trained on all rows in one place."""
    local: list[float]
    """Of one trained on the rows of each client alone."""

    @property
    def local_mean(self) -> float | None:
        """Mean of ``local``."""
        return sum(self.local) / len(self.local) if self.local else None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class FederatedResult(Displayed):
    """Result of a federated run."""

    output: Path
    """Folder of the adapter, the checkpoint and the report."""
    rounds: list[RoundReport]
    """Reports of all rounds."""
    stopped_early: bool
    """Whether the loss stopped improving."""
    loss: float | None
    """Validation loss after the last round, in nats per token."""
    perplexity: float | None
    """Its exponential."""
    comparison: Comparison | None
    """Comparison with training in one place, and alone."""
    share_sizes: list[int]
    """Rows of each client."""
    seconds: float
    """Seconds of the rounds, without the comparison."""

    def summary(self) -> dict[str, float]:
        """Return the final metrics: ``loss``, ``perplexity``, ``test_perplexity``, …."""
        compared = self.comparison
        values: dict[str, Any] = {
            "rounds": len(self.rounds),
            "loss": self.loss,
            "perplexity": self.perplexity,
            "seconds": self.seconds,
            "received_bytes": sum(report.received_bytes for report in self.rounds),
            "rejected": sum(not client.accepted for report in self.rounds for client in report.clients),
        }
        if compared is not None:
            values |= {
                "test_perplexity": compared.federated,
                "central_perplexity": compared.central,
                "local_perplexity": compared.local_mean,
            }
        return numbers(values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "output": str(self.output)}
