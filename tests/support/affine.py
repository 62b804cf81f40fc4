"""Checkpoints in MLX's format whose codes, scales and zero points are chosen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from support.decoders import random_decoder


@dataclass
class Affine:
    """``scale * (code - zero)``, as it was written."""

    codes: np.ndarray
    """``[out, in]``"""
    scales: np.ndarray
    """``[out, groups]``"""
    zeros: np.ndarray
    """``[out, groups]``, not whole for some tests."""


def affine_decoder(
    folder: Path,
    bits: Callable[[str], tuple[int, int] | None] = lambda _: (4, 32),
    zeros: Callable[[np.random.Generator, tuple[int, int], int], np.ndarray] | None = None,
    **changes: Any,
) -> dict[str, Affine]:
    """Write a float16 model whose linear layers have these bits and group sizes; return weights by path.

    Scales have three binary digits, so that float16 holds their products with codes of 8 bits.
    """
    random_decoder(folder, **changes)
    path = folder / "model.safetensors"
    rng = np.random.default_rng(5)
    stored: dict[str, np.ndarray] = {}
    layers: dict[str, Affine] = {}
    formats: dict[str, Any] = {}
    for name, value in load_file(path).items():
        layer = name.removesuffix(".weight")
        chosen = bits(layer) if value.ndim == 2 and "embed" not in name else None
        if chosen is None:
            stored[name] = value.astype(np.float16)
            continue
        width, size = chosen
        rows, columns = value.shape
        shape = (rows, columns // size)
        codes = rng.integers(0, 1 << width, size=value.shape)
        points = (
            rng.integers(0, 1 << width, size=shape).astype(np.float64)
            if zeros is None
            else zeros(rng, shape, width)
        )
        scales = rng.integers(4, 8, size=shape) * 2.0**-7 / (1 << width) * rng.choice([-1.0, 1.0], size=shape)
        scales = scales.astype(np.float16)
        stored[name] = stream(codes, width)
        stored[f"{layer}.scales"] = scales
        stored[f"{layer}.biases"] = (-scales * points).astype(np.float16)
        layers[layer] = Affine(codes, scales.astype(np.float32), points)
        formats[layer] = {"bits": width, "group_size": size, "mode": "affine"}
    save_file(stored, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    first = next(iter(formats.values()))
    config |= {"torch_dtype": "float16", "quantization": {**first, **formats}}
    (folder / "config.json").write_text(json.dumps(config))
    return layers


def stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of each row as MLX packs them: a stream of bits, the lowest first."""
    planes = ((codes[..., None] >> np.arange(bits)) & 1).astype(np.uint8)
    packed = np.packbits(planes.reshape(len(codes), -1), axis=1, bitorder="little")
    return packed.view(np.uint32)
