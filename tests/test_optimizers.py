"""Two steps of every optimizer beside those of ``mlx.optimizers``, on gradients of a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as peers
import numpy as np
import pytest

from support.engine import FIXTURES, MODELS, recovered_gradients, tensors, train
from support.rows import random_ids, write_words

MODEL = MODELS / "llama_gqa"
ADAPTER = FIXTURES / "lora" / "gradient"
LR = 0.01

Arrays = dict[str, np.ndarray]


def apply(peer: peers.Optimizer, name: str, steps: list[Arrays], start: Arrays) -> np.ndarray:
    value = {"x": mx.array(start[name])}
    for grads in steps:
        value = peer.apply_gradients({"x": mx.array(grads[name].astype(np.float32))}, value)
    return np.array(value["x"])


def muon(shape: tuple[int, ...]) -> peers.Optimizer:
    """With the factor of ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`` in the place of theirs."""
    rows, columns = shape
    factor = 0.2 * math.sqrt(max(shape)) / max(1, rows / columns) ** 0.5
    return peers.Muon(LR * factor, momentum=0.95, weight_decay=0.0)


PEERS: dict[str, Any] = {
    "adamw": lambda _: peers.AdamW(LR, weight_decay=0.0, bias_correction=True),
    "adam": lambda _: peers.Adam(LR, bias_correction=True),
    "sgd": lambda _: peers.SGD(LR, momentum=0.9),
    "adafactor": lambda _: peers.Adafactor(LR, scale_parameter=False, relative_step=False),
    "lion": lambda _: peers.Lion(LR, betas=[0.9, 0.99], weight_decay=0.0),
    "muon": muon,
}


@pytest.mark.parametrize("optimizer", PEERS)
def test_two_steps_are_those_of_mlx(tmp_path: Path, optimizer: str) -> None:
    # One batch holds all rows, so that every step sees the same.
    data = write_words(tmp_path / "data", random_ids(4, [5, 9, 14, 20], seed=1))
    settings: dict[str, Any] = {"optimizer": optimizer, "lr": LR, "weight_decay": 0.0, "keep_best": False}

    def run(steps: int) -> Path:
        output = tmp_path / f"after{steps}"
        train(MODEL, data, output, iters=steps, init_adapter=str(ADAPTER), **settings)
        return output

    _, first = recovered_gradients(MODEL, data, tmp_path / "g1", ADAPTER)
    _, second = recovered_gradients(MODEL, data, tmp_path / "g2", run(1))
    start, end = tensors(ADAPTER / "adapters.safetensors"), tensors(run(2) / "adapters.safetensors")
    for name, value in end.items():
        expected = apply(PEERS[optimizer](value.shape), name, [first, second], start)
        moved = np.abs(expected - start[name])
        # Where a gradient is all but 0, its direction is a matter of rounding.
        off = np.abs(value - expected) > 0.01 * moved.max()
        assert off.mean() < 0.01, f"{name}: {off.mean():.1%} of the numbers are off"
