"""The engine as the tests drive it: folders in, numbers out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from efficientai_toolkit import _core
from support.rows import ids_of, words

FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures"
MODELS = FIXTURES / "models"

Event = dict[str, Any]

PLAIN = {
    "dtype": "float32",
    "batch_size": 4,
    "lr": 1e-3,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "max_grad_norm": 0.0,
    "eval_every": 0,
    "save_every": 0,
}
"""AdamW and nothing else, so that a few lines of a peer can follow."""


def logits(model: Path, ids: Any, adapter: Path | None = None) -> np.ndarray:
    """``ids`` [batch, time] → float32 [batch, time, vocab], computed in float32."""
    loaded, _ = _core.models.load(str(model), str(adapter) if adapter else None, "float32")
    return np.asarray(loaded(np.asarray(ids, dtype=np.int32)))


def continuation(model: Path, prompt: Sequence[int], count: int, adapter: Path | None = None) -> list[int]:
    """Greedy tokens after ``prompt``, of a model that reads words."""
    loaded, tokenizer = _core.models.load(str(model), str(adapter) if adapter else None, "float32")
    settings = json.dumps({"max_tokens": count, "temperature": 0.0})
    report = json.loads(_core.generate.generate(loaded, tokenizer, words(prompt), settings, None))
    return ids_of(report["text"])


@dataclass
class Run:
    """One training run: every event it sent, and its report where it finished."""

    output: Path
    events: list[Event] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: str) -> list[Event]:
        """Events of one kind, in order."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def losses(self) -> dict[int, float]:
        """Training loss by step."""
        return {event["step"]: event["loss"] for event in self.of("step")}

    @property
    def adapter(self) -> dict[str, np.ndarray]:
        """The saved adapter."""
        return tensors(self.output / "adapters.safetensors")


def train(
    model: Path,
    data: Path,
    output: Path,
    observer: Callable[[Run, Event], None] | None = None,
    run: Run | None = None,
    **settings: Any,
) -> Run:
    """Train with :data:`PLAIN` settings unless told otherwise; ``run`` collects the events of a failure.

    ``bits`` are in groups of 32, which the rows of the small models are made of.
    """
    config = {**PLAIN, "model_path": str(model), "data": str(data), "output": str(output), **settings}
    loaded, tokenizer = _core.models.load(str(model), None, config["dtype"], config.get("bits"), 32)
    run = run or Run(output)

    def observe(text: str) -> None:
        event = json.loads(text)
        run.events.append(event)
        if observer:
            observer(run, event)

    run.report = json.loads(_core.lora.train(loaded, tokenizer, json.dumps(config), observe))
    return run


def tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file; bfloat16, which NumPy does not have, as float32."""
    return {
        name: np.array(value.astype(mx.float32) if value.dtype == mx.bfloat16 else value)
        for name, value in mx.load(str(path)).items()
    }


def stored(folder: Path) -> dict[str, Any]:
    """The tensors of a model, as they are stored."""
    return dict(mx.load(str(folder / "model.safetensors")))


def write_adapter(folder: Path, values: dict[str, np.ndarray], config: Path) -> Path:
    """An adapter folder with these arrays and a copy of the file ``config``."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: mx.array(value) for name, value in values.items()}
    mx.save_safetensors(str(folder / "adapters.safetensors"), arrays)
    (folder / "adapter_config.json").write_text(config.read_text())
    return folder


def cross_entropy(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean over tokens, in float64: ``scores`` [batch, time, vocab], ``targets`` [batch, time]."""
    scores = scores.astype(np.float64)
    top = scores.max(-1, keepdims=True)
    normaliser = top[..., 0] + np.log(np.exp(scores - top).sum(-1))
    chosen = np.take_along_axis(scores, targets[..., None].astype(np.int64), -1)[..., 0]
    return float((normaliser - chosen).mean())


def largest(a: Any, b: Any) -> float:
    """Largest absolute difference; infinite where the shapes differ."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(np.abs(a - b).max()) if a.shape == b.shape else float("inf")


def recovered_gradients(
    model: Path, data: Path, output: Path, initial: Path, **settings: Any
) -> tuple[Run, dict[str, np.ndarray]]:
    """Gradients of every adapter matrix, read off one optimizer step.

    With ``eps = 1`` and no decay the first AdamW step is ``Δ = -lr·g / (|g| + 1)``,
    so ``g = -Δ / (lr - |Δ|)``.
    """
    lr = 0.1
    step: dict[str, Any] = {
        "iters": 1,
        "lr": lr,
        "eps": 1.0,
        "weight_decay": 0.0,
        "init_adapter": str(initial),
    }
    run = train(model, data, output, **step, **settings)
    before = tensors(initial / "adapters.safetensors")
    change = {name: value.astype(np.float64) - before[name] for name, value in run.adapter.items()}
    return run, {name: -delta / (lr - np.abs(delta)) for name, delta in change.items()}


def computes_packed(model: Path) -> bool:
    """Whether a model computes with packed weights, the precision of which is chosen on a CPU."""
    import efficientai_toolkit as eat
    from efficientai_toolkit.models.generation import GenerateConfig, generate_with_statistics

    config = GenerateConfig(max_tokens=1)
    return generate_with_statistics(*eat.load(model), "a", config).accuracy is not None
