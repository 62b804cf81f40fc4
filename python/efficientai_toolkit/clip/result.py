"""Result of contrastive fine-tuning."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.callbacks.run import numbers


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ClipResult(Displayed):
    """Result of contrastive fine-tuning."""

    final_loss: float
    """Training loss of the last step."""
    loss_before: float | None
    """Validation loss before training; ``None`` without validation data."""
    loss_after: float | None
    """Validation loss of the result."""
    training_time: float
    """Seconds without loading."""
    peak_memory_gb: float
    """Peak of MLX's allocator, in 10⁹ bytes."""
    output: Path
    """Folder of the adapter, or of the model for ``method="full"``."""
    metrics: dict[str, Any]
    """Remaining fields of the engine's report: ``train_losses`` (per step), ``validation_losses`` (pairs of
    step and loss), ``data`` (numbers of images and texts), ``trainable_parameters``, ``steps``, …"""

    @classmethod
    def from_report(cls, text: str) -> "ClipResult":
        """Create a result from the engine's JSON report."""
        report = json.loads(text)
        return cls(
            final_loss=report.pop("final_loss"),
            loss_before=report.pop("loss_before"),
            loss_after=report.pop("loss_after"),
            training_time=report.pop("training_time_secs"),
            peak_memory_gb=report.pop("peak_memory_bytes") / 1e9,
            output=Path(report.pop("output")),
            metrics=report,
        )

    def summary(self) -> dict[str, float]:
        """Return the final metrics."""
        values: dict[str, Any] = {
            "final_loss": self.final_loss,
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "training_time": self.training_time,
            "peak_memory_gb": self.peak_memory_gb,
            **self.metrics,
        }
        return numbers(values)
