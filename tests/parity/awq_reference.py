"""mlx-lm's search for the scales of AWQ on one layer, for the engine's test of its own::

uv run python tests/parity/awq_reference.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.quant import awq

FIXTURE = Path(__file__).parent / "fixtures" / "quantize" / "awq.safetensors"
ROWS, COLUMNS, TOKENS = 24, 128, 48
BITS, GROUP_SIZE, RATIOS = 3, 64, 20


def main() -> None:
    """Write a weight, inputs with a few large channels, the loss of each ratio, and the best scales."""
    mx.set_default_device(mx.cpu)
    rng = np.random.default_rng(0)
    spread = np.exp(rng.normal(size=COLUMNS)) * np.where(rng.random(COLUMNS) < 0.05, 10, 1)
    x = (rng.normal(size=(1, TOKENS, COLUMNS)) * spread).astype(np.float32)
    layer: Any = nn.Linear(COLUMNS, ROWS, bias=False)
    layer.weight = mx.array((rng.standard_t(5, size=(ROWS, COLUMNS)) * 0.1).astype(np.float32))
    weight = layer.weight
    layer.input_feat = mx.array(x)
    losses: list[float] = []
    original = awq.mse

    def mse(y: mx.array, z: mx.array) -> mx.array:
        squares = original(y, z)
        losses.append((squares.sum() / y.size).item())
        return squares

    def rounded(w: mx.array) -> mx.array:
        parts = mx.quantize(w, group_size=GROUP_SIZE, bits=BITS)
        return mx.dequantize(*parts, group_size=GROUP_SIZE, bits=BITS)

    awq.mse = mse
    scales = awq.search_best_scale([layer], rounded, None, {}, RATIOS)
    FIXTURE.parent.mkdir(exist_ok=True)
    tensors = {"weight": weight, "x": layer.input_feat[0], "losses": mx.array(losses), "scales": scales}
    mx.save_safetensors(str(FIXTURE), tensors)


if __name__ == "__main__":
    main()
