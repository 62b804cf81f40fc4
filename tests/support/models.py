"""Models that no fixture has."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from support.engine import MODELS

MODEL = MODELS / "llama_gqa"
WIDER = {24: 64, 48: 128, 96: 256}


def wide_llama(folder: Path) -> Path:
    """A random model of two blocks, all of whose rows are whole groups of 32, 64 and 128."""
    shutil.copytree(MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(9)
    tensors = {}
    for name, value in load_file(MODEL / "model.safetensors").items():
        shape = tuple(WIDER.get(size, size) for size in map(int, value.shape))
        values = rng.normal(size=shape) / math.sqrt(shape[-1]) if value.ndim == 2 else np.ones(shape)
        tensors[name] = values.astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
    return folder
