"""What every contestant does alike: read the job on the command line, print the result as one line of JSON.

A contestant is run as `python contestants/NAME.py JOB` in a process of its own. `lora.py --print-jobs` and
`generate.py --print-jobs` show the jobs, so that any line of a table can be repeated by hand.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Result = dict[str, Any]


def main(tasks: dict[str, Callable[[Job], Result]], packages: tuple[str, ...]) -> None:
    """Do the task that the job names; a library that is not installed is a result too."""
    job = json.loads(sys.argv[1])
    try:
        result = tasks[job["task"]](job)
        result["versions"] = {name: importlib.metadata.version(name) for name in packages}
    except ModuleNotFoundError as error:
        result = {"missing": error.name}
    print(json.dumps(result), flush=True)


def rows(job: Job, split: str) -> list[list[int]]:
    """Give the token ids of a split, the end of text included: every row has `length` + 1 tokens."""
    text = (Path(job["data"]) / f"{split}.jsonl").read_text(encoding="utf-8")
    return [[*ids(json.loads(line)["text"]), job["end"]] for line in text.splitlines()]


def ids(text: str) -> list[int]:
    """Tokenize: the words of the bench are their own token ids."""
    return [int(word[1:]) for word in text.split()]


class Laps:
    """Seconds between calls of `lap`; the first `warmup` laps are left out."""

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup
        self._last = time.perf_counter()
        self._laps: list[float] = []

    def lap(self) -> None:
        """End a lap and start the next."""
        now = time.perf_counter()
        self._laps.append(now - self._last)
        self._last = now

    def restart(self) -> None:
        """Leave what was done since the last lap out of the next one."""
        self._last = time.perf_counter()

    def speed(self, job: Job) -> Result:
        """Tokens per second over the laps that count, each of which trained on one batch without padding."""
        seconds = self._laps[self._warmup :]
        tokens = job["batch"] * job["length"] * len(seconds)
        return {"tokens_per_second": tokens / sum(seconds), "step_seconds": seconds}
