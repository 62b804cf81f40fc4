"""Continuous batching: several sequences written at once, in tokens per second of all together.

uv run --group dev efficientai-toolkit benchmark run benches/batching.py --set shape=100m
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import formats
import harness
import numpy as np
import shapes

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark import Case

MEASURES = ("tokens_per_second", "tokens_per_cpu_second")
KNOWN = ("ours", "ours-q4", "llama.cpp-q4_0")
DEFAULT = "ours-q4,llama.cpp-q4_0"
CHECKPOINTS = {"": shapes.checkpoint, "q4": formats.mlx_q4, "q4_0": formats.gguf_q4_0}


def cases(
    *,
    shape: str = "tiny",
    sizes: str = "1x64,8x64",
    prompt_tokens: int = 64,
    accuracy: str = "int8",
    contestants: str = DEFAULT,
    llama_batched_bench: str = "llama-batched-bench",
    cache: str | None = None,
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield the cases of a model.

    `shape` is its size, `sizes` are SEQUENCESxNEW, how many are written at once and the tokens of each,
    separated by commas; every sequence has a prompt of its own. `accuracy` is that of our products with 4
    bits: llama.cpp rounds activations to 8 bits, as `int8` does. `llama_batched_bench` is llama.cpp's program
    of that name.
    """
    if shape not in shapes.SHAPES:
        message = f"shape {shape!r} is none of {', '.join(shapes.SHAPES)}"
        raise ValueError(message)
    turns = harness.parse_contestants(contestants, KNOWN)
    folder = Path(cache) if cache else shapes.default_cache()
    checkpoints = {who.variant: str(CHECKPOINTS[who.variant](shape, folder)) for who in turns}
    jobs: dict[str, dict[harness.Contestant, harness.Job]] = {}
    for size in sizes.split(","):
        sequences, new = (int(number) for number in size.split("x"))
        random = np.random.default_rng(2)
        job = {
            "task": "batch",
            "prompts": [shapes.words(shape, prompt_tokens, random) for _ in range(sequences)],
            "prompt_tokens": prompt_tokens,
            "new_tokens": new,
            "accuracy": accuracy,
            "llama_batched_bench": llama_batched_bench,
        }
        jobs[f"batching {shape} {size}"] = {
            who: job | {"checkpoint": checkpoints[who.variant]} for who in turns
        }
    return harness.cases(jobs, MEASURES, same=lambda _: {"generated": 0.0}, python=python, threads=threads)
