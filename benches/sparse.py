"""Decoding with weights of which many are zero, beside dense ones: how many times as fast one layer is.

uv run --group dev efficientai-toolkit benchmark run benches/sparse.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import harness

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark import Case

KNOWN = ("ours", "ours-int8")


def cases(
    *,
    sizes: str = "1x4096x11008,1x896x77824",
    formats: str = "bf16,f32,8,4",
    sparsities: str = "30,40,50,60,70,80,90",
    group: int = 64,
    rounds: int = 3,
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield a case for every size and format.

    `sizes` are ROWSxINPUTSxOUTPUTS, separated by commas: by default a layer that no cache holds, and sixteen
    of 896 by 4864 in a row. `formats` are `f32`, `bf16`, `f16`, or bits of a quantized weight (4, 8) whose
    activations are rounded to 8 bits. `sparsities` are percents of zeros. What counts is the time with a
    dense weight divided by that with each of them, the least of `rounds`.
    """
    percents = [int(percent) for percent in sparsities.split(",")]
    jobs = {}
    for size in sizes.split(","):
        extents = dict(zip(("rows", "inputs", "outputs"), map(int, size.split("x")), strict=True))
        for form in formats.split(","):
            bits = int(form) if form.isdigit() else None
            if bits is None and form not in {"f32", *harness.DTYPES}:
                message = f"format {form!r} is none of f32, bf16, f16, 8, 4"
                raise ValueError(message)
            suffix = "-int8-bf16" if bits else "" if form == "f32" else f"-{form}"
            who = harness.Contestant.parse(f"ours{suffix}", KNOWN)
            settings = {"bits": bits, "group": group, "sparsities": percents, "rounds": rounds}
            title = f"sparse_linear {size} {f'{bits} bits' if bits else form}"
            jobs[title] = {who: {"task": "sparse_linear", **extents, **settings}}
    measures = [f"zeros_{percent}" for percent in percents]
    return harness.cases(jobs, measures, python=python, threads=threads)
