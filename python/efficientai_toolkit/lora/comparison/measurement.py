"""What is known of one method after its run."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efficientai_toolkit.callbacks.base import as_callback
from efficientai_toolkit.callbacks.events import event_to_json
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.result import TrainingResult
from efficientai_toolkit.lora.trainer import MLXTrainer
from efficientai_toolkit.study.job import Emit


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One row of a comparison. Losses are in nats per target token, sizes in bytes or 10⁹ bytes."""

    method: str
    error: str | None = None
    """Why it failed; everything below is then ``None``."""
    lr: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    perplexity_before: float | None = None
    perplexity_after: float | None = None
    seconds: float | None = None
    """In steps, without loading and validation."""
    tokens_per_second: float | None = None
    peak_memory_gb: float | None = None
    """Peak of MLX's allocator while training, in a process of its own."""
    process_memory_gb: float | None = None
    """Peak of the whole process, loading included."""
    disk_bytes: int | None = None
    """Weights that were saved: the adapters, or the whole model."""
    trainable_parameters: int | None = None
    total_parameters: int | None = None


def train(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """The job of one method: train, and send the events of the run."""
    config = TrainingConfig(**request["config"])
    callback = as_callback(lambda event: emit(json.loads(event_to_json(event))))
    result = MLXTrainer(config, callback=callback).train()
    return asdict(measure(request["method"], config.lr, result))


def measure(method: str, lr: float, result: TrainingResult) -> Measurement:
    """The row of a run that went well."""
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
    """Bytes of the safetensors files of a result; checkpoints, which lie deeper, do not count."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
