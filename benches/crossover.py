"""Draws from how many zeros on sparse decoding is faster, from a run of `sparse.py`.

uv run --group dev efficientai-toolkit benchmark report --output sparse.json
uv run --group dev python benches/crossover.py sparse.json crossover.svg
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib as mpl

PREFIX = "zeros_"


def main() -> int:
    """Draw a line for every size and format."""
    source, target = map(Path, sys.argv[1:])
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for result in json.loads(source.read_text(encoding="utf-8"))["run"]["results"]:
        speeds = {
            int(name.removeprefix(PREFIX)): statistics.median(values)
            for name, values in result["metrics"].items()
            if name.startswith(PREFIX)
        }
        if speeds:
            label = result["case"].removeprefix("sparse_linear ").rpartition(" ours")[0]
            axes.plot(list(speeds), list(speeds.values()), marker="o", label=label)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xlabel="zeros in %", ylabel="times the speed of a dense weight")
    axes.legend()
    figure.tight_layout()
    figure.savefig(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
