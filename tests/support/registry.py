"""Small folders of the kinds that a registry takes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.study.record import RECORD


def weights(path: Path, seed: int = 0) -> None:
    """A small file of weights."""
    save_file({"w": np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)}, path)


def trained(
    folder: Path, seed: int = 0, *, loss: float = 2.5, base: str = "org/base", **settings: Any
) -> Path:
    """What a training run leaves: an adapter, its report and ``run.json``."""
    folder.mkdir(parents=True)
    weights(folder / "adapters.safetensors", seed)
    (folder / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora"}))
    config = {"model_path": base, "output": str(folder), "lr": 0.1, **settings}
    report = {"final_loss": loss, "stopped_early": False, "train_losses": [3.0], "memory": {"peak": 5}}
    (folder / "training.json").write_text(json.dumps({"config": config, "report": report}))
    data = {"files": 1, "bytes": 10, "sha256": f"{seed:064}"}
    (folder / RECORD).write_text(json.dumps({"kind": "lora", "configuration": config, "data": data}))
    return folder


def model(folder: Path, seed: int = 0) -> Path:
    """A model as far as the registry looks."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    weights(folder / "model.safetensors", seed)
    return folder


def variant(folder: Path, seed: int) -> Path:
    """The embedded model with other weights, so that it says something else."""
    shutil.copytree(MODEL, folder)
    [file] = folder.glob("*.safetensors")
    tensors = load_file(file)
    rng = np.random.default_rng(seed)
    for name, tensor in tensors.items():
        if name.endswith("q_proj.weight"):
            tensors[name] = rng.permutation(tensor)
    save_file(tensors, file, metadata={"format": "mlx"})
    return folder
