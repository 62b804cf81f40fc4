"""Measurements of a method."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.callbacks.base import as_callback
from efficientai_toolkit.callbacks.events import event_to_json
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.result import TrainingResult
from efficientai_toolkit.lora.trainer import MLXTrainer
from efficientai_toolkit.study.job import Emit


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Measurement(Displayed):
    """A row of a comparison. Losses are in nats per target token."""

    method: str
    error: str | None = None
    """Reason of a failure; all following fields are then ``None``."""
    lr: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    perplexity_before: float | None = None
    perplexity_after: float | None = None
    seconds: float | None = None
    """Training time without loading and validation."""
    tokens_per_second: float | None = None
    peak_memory_gb: float | None = None
    """Peak of MLX's allocator during training, in 10⁹ bytes."""
    process_memory_gb: float | None = None
    """Peak of the whole process including loading, in 10⁹ bytes."""
    disk_bytes: int | None = None
    """Size of the saved weights: the adapters, or the full model."""
    trainable_parameters: int | None = None
    total_parameters: int | None = None


def train(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Job of a method: train and emit the events of the run."""
    config = TrainingConfig(**request["config"])
    callback = as_callback(lambda event: emit(json.loads(event_to_json(event))))
    result = MLXTrainer(config, callback=callback).train()
    return asdict(measure(request["method"], config.lr, result))


def measure(method: str, lr: float, result: TrainingResult) -> Measurement:
    """Create the row of a successful run."""
    metrics: dict[str, Any] = result.metrics
    return Measurement(
        method=method,
        lr=lr,
        loss_before=metrics["loss_before"],
        loss_after=metrics["loss_after"],
        perplexity_before=metrics["perplexity_before"],
        perplexity_after=metrics["perplexity_after"],
        seconds=result.training_time,
        tokens_per_second=metrics["tokens_per_second"],
        peak_memory_gb=result.peak_memory_gb,
        disk_bytes=compute_disk_size(result.adapter_path),
        trainable_parameters=metrics["trainable_parameters"],
        total_parameters=metrics["total_parameters"],
    )


def compute_disk_size(folder: Path) -> int:
    """Compute the size of a result's safetensors files in bytes, without checkpoints."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
