"""Generation speed: reading a prompt (prefill) and writing an answer (decode), in tokens per second.

uv run --group dev efficientai-toolkit benchmark run benches/generate.py --set contestants=ours-q4,mlx-lm-q4
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

MEASURES = ("prefill_tokens_per_second", "decode_tokens_per_second")
KNOWN = ("ours", "ours-q4", "mlx-lm", "mlx-lm-q4", "torch", "llama.cpp-q4_0")
DEFAULT = "ours,ours-q4,mlx-lm,mlx-lm-q4,torch,torch-bf16,llama.cpp-q4_0"
CHECKPOINTS = {"": shapes.checkpoint, "q4": formats.mlx_q4, "q4_0": formats.gguf_q4_0}


def cases(
    *,
    shape: str = "tiny",
    sizes: str = "256x64",
    contestants: str = DEFAULT,
    llama_bench: str = "llama-bench",
    cache: str | None = None,
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield the cases of a model.

    `shape` is its size, `sizes` are PROMPTxNEW, the tokens to read and to write, separated by commas;
    `llama_bench` is llama.cpp's program of that name.
    """
    if shape not in shapes.SHAPES:
        message = f"shape {shape!r} is none of {', '.join(shapes.SHAPES)}"
        raise ValueError(message)
    turns = harness.parse_contestants(contestants, KNOWN)
    folder = Path(cache) if cache else shapes.default_cache()
    checkpoints = {who.variant: str(CHECKPOINTS[who.variant](shape, folder)) for who in turns}
    jobs: dict[str, dict[harness.Contestant, harness.Job]] = {}
    for size in sizes.split(","):
        prompt, new = (int(number) for number in size.split("x"))
        job = {
            "task": "generate",
            "prompt": shapes.words(shape, prompt, np.random.default_rng(2)),
            "prompt_tokens": prompt,
            "new_tokens": new,
            "check": 8,
            "llama_bench": llama_bench,
        }
        jobs[f"generate {shape} {size}"] = {
            who: job | {"checkpoint": checkpoints[who.variant]} for who in turns
        }
    return harness.cases(jobs, MEASURES, same=same, python=python, threads=threads)


def same(who: harness.Contestant) -> dict[str, float]:
    """Give what tells who wrote fewer tokens, or other ones.

    Only in float32 greedy decoding leaves no room; with weights in 4 bits, activations may be rounded too.
    """
    exact = (who.variant, who.dtype) == ("", "float32")
    return {"generated": 0.0, **({"ids": 0.0} if exact else {})}
