"""What every contestant does alike: read the job on the command line, print the result as one line of JSON.

A contestant is run as `python contestants/NAME.py JOB` in a process of its own; `cases` of `harness.py` makes
that command.
"""

from __future__ import annotations

import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Job = dict[str, Any]
Result = dict[str, Any]


def main(tasks: dict[str, Callable[[Job], Result]], packages: tuple[str, ...]) -> None:
    """Do the task that the job names; a library that is not installed is a result too."""
    job = json.loads(sys.argv[1])
    try:
        result = tasks[job["task"]](job)
        result.setdefault("versions", {name: importlib.metadata.version(name) for name in packages})
        result.setdefault("peak_rss_bytes", peak_rss())
    except ModuleNotFoundError as error:
        result = {"missing": error.name}
    print(json.dumps(result), flush=True)


def peak_rss() -> int:
    """Give the most bytes this process has held."""
    if sys.platform == "linux":
        # What `getrusage` tells begins with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def rows(job: Job, split: str) -> list[list[int]]:
    """Give the token ids of a split, the end of text included: every row has `length` + 1 tokens."""
    text = (Path(job["data"]) / f"{split}.jsonl").read_text(encoding="utf-8")
    return [[*ids(json.loads(line)["text"]), job["end"]] for line in text.splitlines()]


def ids(text: str) -> list[int]:
    """Tokenize: the words of the bench are their own token ids."""
    return [int(word[1:]) for word in text.split()]


def sequences(job: Job) -> list[list[int]]:
    """Give the token ids of the calibration text."""
    return json.loads((Path(job["text"]) / "calibration.json").read_text(encoding="utf-8"))


def divergence(job: Job, folder: Path) -> Result:
    """Compare the quantized model in `folder` with the original one.

    The same evaluator does it for all, in a process of its own, whose memory does not count.
    """
    task = {
        "task": "divergence",
        "checkpoint": job["checkpoint"],
        "text": job["text"],
        "quantized": str(folder),
    }
    command = [job["evaluator"], str(Path(__file__).with_name("ours.py")), json.dumps(task)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {**found["divergence"], "size_bytes": size}


def operands(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Give a linear layer's input (`[rows, inputs]`) and weight (`[outputs, inputs]`): random float32."""
    import numpy as np

    rng = np.random.default_rng(0)
    shapes = (job["rows"], job["inputs"]), (job["outputs"], job["inputs"])
    return rng.standard_normal(shapes[0], np.float32), rng.standard_normal(shapes[1], np.float32)


def updates(job: Job) -> Iterator[np.ndarray]:
    """Yield the update of every client: random float32."""
    import numpy as np

    for client in range(job["clients"]):
        yield np.random.default_rng(client).standard_normal(job["parameters"], np.float32)


def speed_of_updates(job: Job, call: Callable[[], object]) -> Result:
    """Give the speed of aggregating updates: each is read once."""
    seconds = seconds_per_call(call)
    return {"gbs": 4e-9 * job["clients"] * job["parameters"] / seconds, "seconds": seconds}


def seconds_per_call(call: Callable[[], object], least: float = 1.0) -> float:
    """Give the median time of a call: 5 or more, for `least` seconds, after a first that is left out."""
    call()
    laps: list[float] = []
    total = 0.0
    while len(laps) < 5 or total < least:
        start = time.perf_counter()
        call()
        laps.append(time.perf_counter() - start)
        total += laps[-1]
    return statistics.median(laps)


def speed_of(job: Job, seconds: float) -> Result:
    """Give the speed of a linear layer, which is two operations per row and weight."""
    return {"gflops": 2e-9 * job["rows"] * job["inputs"] * job["outputs"] / seconds, "seconds": seconds}


def speed_of_passes(job: Job, seconds: dict[str, float]) -> Result:
    """Give the speed of each pass of a convolution that keeps the size of its images; all do equal work."""
    pixels = job["batch"] * job["height"] * job["width"]
    depth = job["kernel"] ** 2 * job["inputs"] // job["groups"]
    work = 2e-9 * pixels * depth * job["outputs"]
    return {part: work / each for part, each in seconds.items()} | {"seconds": seconds}


class Laps:
    """Time and processor time between calls of `lap`; the first `warmup` laps are left out."""

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup
        self._laps: list[tuple[float, float]] = []
        self.restart()

    def lap(self) -> None:
        """End a lap and start the next."""
        begun, cpu_begun = self._last
        self.restart()
        now, cpu_now = self._last
        self._laps.append((now - begun, cpu_now - cpu_begun))

    def restart(self) -> None:
        """Leave what was done since the last lap out of the next one."""
        self._last = time.perf_counter(), time.process_time()

    def speed(self, job: Job) -> Result:
        """Tokens per second over the laps that count, each of which trained on one batch without padding."""
        seconds, cpu_seconds = zip(*self._laps[self._warmup :], strict=True)
        tokens = job["batch"] * job["length"] * len(seconds)
        return {
            "tokens_per_second": tokens / sum(seconds),
            "tokens_per_cpu_second": tokens / sum(cpu_seconds),
            "step_seconds": seconds,
        }
