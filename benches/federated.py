"""Aggregating the updates of a round beside Flower, in GB/s of updates.

uv run --group dev efficientai-toolkit benchmark run benches/federated.py \\
    --set 'python={"flower": "/path/to/python"}'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import harness

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark import Case

RULES = ("fedavg", "streamed", "median", "trimmed_mean", "multi_krum", "bulyan")


def cases(
    *,
    rules: str = "fedavg,median,trimmed_mean,multi_krum",
    sizes: str = "50x1000000",
    contestants: str = "ours,flower",
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield the cases of each rule: GB/s of float32 updates, and the peak of memory.

    `sizes` are CLIENTSxPARAMETERS, separated by commas; a fifth of the clients are taken for hostile, for
    `bulyan` a tenth. `streamed` is the mean of updates that are made one by one and not kept.
    """
    turns = harness.parse_contestants(contestants, ("ours", "flower"))
    jobs: dict[str, dict[harness.Contestant, harness.Job]] = {}
    for size in sizes.split(","):
        clients, _, parameters = size.partition("x")
        if not (clients.isdecimal() and parameters.isdecimal()):
            message = f"the size {size}: give CLIENTSxPARAMETERS"
            raise ValueError(message)
        for rule in rules.split(","):
            if rule not in RULES:
                message = f"rule {rule!r} is none of {', '.join(RULES)}"
                raise ValueError(message)
            job = {
                "task": "aggregate",
                "rule": rule,
                "clients": int(clients),
                "parameters": int(parameters),
                "f": int(clients) // (10 if rule == "bulyan" else 5),
            }
            jobs[f"{rule} {size}"] = dict.fromkeys(turns, job)
    return harness.cases(jobs, ("gbs",), python=python, threads=threads)
