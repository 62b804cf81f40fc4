"""Workspaces with data, and settings of a training that takes a second."""

from pathlib import Path
from typing import Any

TINY: dict[str, Any] = {
    "data": "data/rows.jsonl",
    "iters": 6,
    "batch_size": 1,
    "max_seq_length": 32,
    "save_every": 2,
    "eval_every": 0,
}


def write_rows(workspace: Path) -> Path:
    """Write the data of ``TINY`` into a new workspace."""
    (workspace / "data").mkdir(parents=True)
    rows = [f'{{"text": "To be or not to be, {number} times"}}\n' for number in range(8)]
    (workspace / "data" / "rows.jsonl").write_text("".join(rows))
    return workspace
