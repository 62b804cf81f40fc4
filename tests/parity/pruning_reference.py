"""Records the masks of SparseGPT and Wanda by their authors' code.

    /path/to/parity/python tests/parity/pruning_reference.py SPARSEGPT_CHECKOUT

``SPARSEGPT_CHECKOUT`` is a checkout of https://github.com/IST-DASLab/sparsegpt. Wanda's metric and masks are
a few lines of https://github.com/locuslab/wanda (``lib/prune.py``), which needs a GPU to be imported.
"""

import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

FIXTURE = Path(__file__).parent / "fixtures" / "prune" / "masks.safetensors"
ROWS, COLUMNS, TOKENS = 64, 320, 640
SPARSITY = 0.5


def noise(index: np.ndarray) -> np.ndarray:
    return ((index * 7919 + 13) % 2003).astype(np.float32) / np.float32(1001.5) - np.float32(1)


def layer() -> tuple[np.ndarray, np.ndarray]:
    """Weights and correlated inputs, as the test computes them."""
    weights = noise(np.arange(ROWS * COLUMNS, dtype=np.int64) * 3 + 1) ** 3
    token, column = np.meshgrid(np.arange(TOKENS), np.arange(COLUMNS), indexing="ij")
    scale = (1 + column % 5).astype(np.float32)
    shared, own = noise(token * 31 + column // 8), noise(token * COLUMNS + column)
    return weights.reshape(ROWS, COLUMNS), scale * (shared + np.float32(0.5) * own)


def sparsegpt(checkout: Path, prunen: int, prunem: int) -> Any:
    sys.path.insert(0, str(checkout))
    transformers: Any = types.ModuleType("transformers")
    transformers.Conv1D = type("Conv1D", (), {})
    sys.modules["transformers"] = transformers
    # The authors' timer waits for a GPU.
    torch.cuda.synchronize = lambda *_: None
    authors = import_module("sparsegpt")
    weights, x = layer()
    module = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    module.weight.data = torch.from_numpy(weights.copy())
    pruner = authors.SparseGPT(module)
    pruner.add_batch(torch.from_numpy(x), None)
    pruner.fasterprune(SPARSITY, prunen=prunen, prunem=prunem)
    return module.weight.data.numpy()


def wanda(prunen: int, prunem: int) -> Any:
    weights, x = layer()
    scaler_row = torch.from_numpy(x).T.norm(p=2, dim=1) ** 2 / TOKENS
    metric = torch.from_numpy(np.abs(weights)) * torch.sqrt(scaler_row.reshape((1, -1)))
    mask = torch.zeros_like(metric) == 1
    if prunen:
        for start in range(0, COLUMNS, prunem):
            group = metric[:, start : start + prunem]
            mask.scatter_(1, start + torch.topk(group, prunen, dim=1, largest=False)[1], True)
    else:
        order = torch.sort(metric, dim=-1, stable=True)[1]
        mask.scatter_(1, order[:, : int(COLUMNS * SPARSITY)], True)
    return mask.numpy()


def main() -> None:
    checkout = Path(sys.argv[1])
    recorded = {}
    for name, pattern in {"unstructured": (0, 0), "2:4": (2, 4)}.items():
        pruned = sparsegpt(checkout, *pattern)
        recorded[f"sparsegpt.{name}.zeros"] = np.packbits(pruned == 0)
        recorded[f"sparsegpt.{name}.row_sums"] = pruned.sum(axis=1)
        recorded[f"wanda.{name}.zeros"] = np.packbits(wanda(*pattern))
    FIXTURE.parent.mkdir(parents=True, exist_ok=True)
    save_file(recorded, FIXTURE, metadata={"torch": torch.__version__, "sparsegpt": "147d215"})


if __name__ == "__main__":
    main()
