"""Result of a training run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.callbacks.run import numbers


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TrainingResult(Displayed):
    """Result of a training run."""

    final_loss: float
    """Training loss of the last step; for ``sft`` in nats per target token."""
    training_time: float
    """Seconds without loading."""
    peak_memory_gb: float
    """Peak of MLX's allocator, in 10⁹ bytes."""
    perplexity: float | None
    """Validation perplexity after training; ``None`` for preference objectives."""
    adapter_path: Path
    """Folder of the adapters, or of the model for ``method="full"`` and with ``qat_bits``."""
    metrics: dict[str, Any]
    """Remaining fields of the engine's report: ``tokens_per_second``, ``train_losses`` (per step),
    ``validation_losses`` (pairs of step and loss), ``memory`` (the estimate), ``perplexity_before``,
    for preferences ``rewards_before``, ``rewards_after`` (``accuracy``, ``margin``) and ``train_rewards``,
    ``trainable_parameters``, ``total_parameters``, ``steps``, ``stopped_early``, ``best_step``, …"""

    @classmethod
    def from_report(cls, text: str) -> "TrainingResult":
        """Create a result from the engine's JSON report."""
        report = json.loads(text)
        return cls(
            final_loss=report.pop("final_loss"),
            training_time=report.pop("training_time_secs"),
            peak_memory_gb=report.pop("peak_memory_bytes") / 1e9,
            perplexity=report["perplexity_after"],
            adapter_path=Path(report.pop("adapter_path")),
            metrics=report,
        )

    def summary(self) -> dict[str, float]:
        """Return the final metrics, such as ``final_loss``, ``loss_after`` or ``tokens_per_second``."""
        rewards: dict[str, float] = self.metrics.get("rewards_after") or {}
        values: dict[str, Any] = {
            "final_loss": self.final_loss,
            "perplexity": self.perplexity,
            "training_time": self.training_time,
            "peak_memory_gb": self.peak_memory_gb,
            **{f"reward_{name}": value for name, value in rewards.items()},
            **self.metrics,
        }
        return numbers(values)
