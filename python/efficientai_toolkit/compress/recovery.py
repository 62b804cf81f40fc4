"""Recovery: training that wins back what pruning has cost."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientai_toolkit.callbacks.base import AnyCallback

_TYPES = {"bfloat16": "bf16", "float16": "f16"}
"""Types of exports by their names in ``config.json``; all others are stored in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverySettings:
    """What a recovery works on."""

    original: str
    """The model before pruning."""
    pruned: str
    """The model to train."""
    data: str
    """Training data."""
    output: str
    """Folder of the result, which may hold an interrupted training in a folder beside it."""
    steps: int
    batch_size: int
    max_seq_length: int
    lr: float
    seed: int


def distill(settings: RecoverySettings, callback: AnyCallback) -> None:
    """Train adapters of all linear layers to predict what the original does, and merge them."""
    _train_adapters(settings, callback, teacher=settings.original)


def train_adapters(settings: RecoverySettings, callback: AnyCallback) -> None:
    """Train adapters of all linear layers on the data, and merge them."""
    _train_adapters(settings, callback)


def _train_adapters(settings: RecoverySettings, callback: AnyCallback, teacher: str | None = None) -> None:
    from efficientai_toolkit.adapters import fuse

    work = Path(f"{settings.output}-training")
    own = {"method": "lora", "lora_rank": 16, "lora_alpha": 32.0}
    adapter = _train(settings, work, callback, own, teacher)
    fuse(settings.pruned, adapter, settings.output, overwrite=True, show_progress=False)
    shutil.rmtree(work, ignore_errors=True)


def train_in_full(settings: RecoverySettings, callback: AnyCallback) -> None:
    """Train all weights on the data, at a tenth of the learning rate of adapters."""
    from efficientai_toolkit.exports.run import export

    work = Path(f"{settings.output}-training")
    trained = _train(settings, work, callback, {"method": "full", "lr": settings.lr / 10})
    # They were trained in float32 where there is no GPU.
    config = json.loads((Path(settings.pruned) / "config.json").read_text(encoding="utf-8"))
    stored = config.get("dtype", config.get("torch_dtype"))
    export(
        str(trained),
        format="safetensors",
        type=_TYPES.get(stored, "f32"),
        output=settings.output,
        verify="off",
        overwrite=True,
        show_progress=False,
    )
    shutil.rmtree(work, ignore_errors=True)


def _train(
    settings: RecoverySettings,
    work: Path,
    callback: AnyCallback,
    own: Mapping[str, Any],
    teacher: str | None = None,
) -> Path:
    from efficientai_toolkit.distill.config import DistillConfig
    from efficientai_toolkit.distill.run import Distiller
    from efficientai_toolkit.lora.config import TrainingConfig
    from efficientai_toolkit.lora.trainer import MLXTrainer

    has_checkpoint = any(work.glob("checkpoints/[!.]*"))
    values: dict[str, Any] = {
        "model_path": settings.pruned,
        "data": settings.data,
        "output": str(work),
        "iters": settings.steps,
        "batch_size": settings.batch_size,
        "max_seq_length": settings.max_seq_length,
        "lr": settings.lr,
        "seed": settings.seed,
        "resume": has_checkpoint,
        "overwrite": not has_checkpoint,
    }
    config = TrainingConfig(**(values | dict(own)))
    if teacher is None:
        return MLXTrainer(config, callback=callback).train().adapter_path
    return Distiller(config, DistillConfig(teacher=teacher), callback=callback).train().adapter_path


RECOVERIES: Mapping[str, Callable[[RecoverySettings, AnyCallback], None]] = {
    "distill": distill,
    "lora": train_adapters,
    "full": train_in_full,
}
"""Recoveries by name."""
