"""mlx-lm in float32 with and without `eat.accelerate_mlx()`: training and generation, in tokens per second.

uv run --group dev efficientai-toolkit benchmark run benches/accelerate.py --set shape=100m
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import harness
import lora
import numpy as np
import shapes

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark import Case

MEASURES = ("tokens_per_second", "prefill_tokens_per_second", "decode_tokens_per_second")
KNOWN = ("mlx-lm", "mlx-lm-accelerated")


def cases(
    *,
    shape: str = "tiny",
    sizes: str = "4x256",
    new: int = 32,
    steps: int = 5,
    warmup: int = 2,
    rank: int = 8,
    cache: str | None = None,
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield the cases of a model.

    `shape` and `sizes` are those of `lora.py`; `new` tokens are written after a prompt of one row's length.
    """
    folder = Path(cache) if cache else shapes.default_cache()
    turns = harness.parse_contestants(",".join(KNOWN), KNOWN)
    checkpoint = shapes.checkpoint(shape, folder)
    jobs: dict[str, dict[harness.Contestant, harness.Job]] = {}
    for size in sizes.split(","):
        job = lora.training(shape, size, folder, steps=steps, warmup=warmup, rank=rank)
        job |= {
            "task": "both",
            "method": "lora",
            "checkpoint": str(checkpoint),
            "prompt": shapes.words(shape, job["length"], np.random.default_rng(2)),
            "new_tokens": new,
            "check": 8,
        }
        jobs[f"lora {shape} {size}"] = dict.fromkeys(turns, job)
    return harness.cases(jobs, MEASURES, same=lora.same, python=python, threads=threads)
