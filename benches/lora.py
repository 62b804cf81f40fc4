"""Training speed, in tokens per second, of this toolkit and the libraries one would otherwise use.

uv run --group dev efficientai-toolkit benchmark run benches/lora.py --set method=qlora --set shape=tiny
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import formats
import harness
import shapes

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark import Case

KNOWN = ("ours", "mlx-lm", "torch", "torch-compile")
DEFAULT = {
    "lora": "ours,ours-bf16,mlx-lm,torch,torch-bf16",
    "qlora": "ours,ours-bf16,mlx-lm",
    "full": "ours,ours-bf16,mlx-lm,torch,torch-bf16",
}


def cases(
    *,
    method: str = "lora",
    shape: str = "tiny",
    sizes: str = "4x256",
    contestants: str | None = None,
    steps: int = 5,
    warmup: int = 2,
    rank: int = 8,
    cache: str | None = None,
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield the cases of a method: adapters (`lora`), adapters on a base in 4 bits, or every weight (`full`).

    `shape` is the size of the model, `sizes` are BATCHxLENGTH, separated by commas; `steps` are measured
    after `warmup`.
    """
    if method not in DEFAULT or shape not in shapes.SHAPES:
        message = f"method and shape are one of {', '.join(DEFAULT)} and of {', '.join(shapes.SHAPES)}"
        raise ValueError(message)
    turns = harness.parse_contestants(contestants or DEFAULT[method], KNOWN)
    if method == "qlora" and any(who.library == "torch" for who in turns):
        message = "PyTorch has no training in 4 bits on a CPU"
        raise ValueError(message)
    folder = Path(cache) if cache else shapes.default_cache()
    checkpoint = (formats.mlx_q4 if method == "qlora" else shapes.checkpoint)(shape, folder)
    jobs = {}
    for size in sizes.split(","):
        job = training(shape, size, folder, steps=steps, warmup=warmup, rank=rank)
        job |= {"method": method, "checkpoint": str(checkpoint)}
        jobs[f"{method} {shape} {size}"] = dict.fromkeys(turns, job)
    return harness.cases(
        jobs, ("tokens_per_second", "tokens_per_cpu_second"), same=same, python=python, threads=threads
    )


def same(who: harness.Contestant) -> dict[str, float]:
    """Give what tells who did not train the same: other parameters, another loss before the first step."""
    return {"trainable_parameters": 0.0, "loss_before": 1e-4 if who.dtype == "float32" else 1e-2}


def training(shape: str, size: str, cache: Path, *, steps: int, warmup: int, rank: int) -> harness.Job:
    """Give the job of a size, BATCHxLENGTH, but for the method and the checkpoint."""
    batch, length = (int(number) for number in size.split("x"))
    data = shapes.training_data(shape, batch * (warmup + steps), length, cache)
    return {
        "task": "train",
        "data": str(data),
        "end": shapes.END,
        "batch": batch,
        "length": length,
        "steps": steps,
        "warmup": warmup,
        "rank": rank,
        "alpha": 2.0 * rank,
        "lr": 1e-4,
        "seed": 0,
    }
