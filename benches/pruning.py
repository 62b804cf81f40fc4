"""Pruning one layer beside the authors' formulas in PyTorch: seconds of each method, with calibration.

uv run --group parity efficientai-toolkit benchmark run benches/pruning.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import harness

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark import Case

KNOWN = ("ours", "authors")
MEASURES = ("wanda", "sparsegpt")


def cases(
    *,
    sizes: str = "896x4864",
    tokens: int = 8192,
    sequence_length: int = 512,
    sparsity: float = 0.5,
    contestants: str = ",".join(KNOWN),
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield a case for every size and contestant.

    `sizes` are ROWSxCOLUMNS of a weight, separated by commas. `wanda` needs the norms of the inputs, and
    `sparsegpt` their Hessian and the factor of its inverse: both count. A pruning run also tells the output
    error of each layer, for which it takes the Hessian with every method.
    """
    turns = harness.parse_contestants(contestants, KNOWN)
    jobs = {}
    for size in sizes.split(","):
        rows, columns = (int(number) for number in size.split("x"))
        job = {
            "task": "prune_layer",
            "rows": rows,
            "columns": columns,
            "tokens": tokens,
            "sequence_length": sequence_length,
            "sparsity": sparsity,
        }
        jobs[f"prune_layer {size}"] = dict.fromkeys(turns, job)
    return harness.cases(jobs, MEASURES, higher_is_better=(), python=python, threads=threads)
