"""Timing of functions and commands in this process."""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from efficientai_toolkit.benchmark.config import BenchmarkConfig
from efficientai_toolkit.exceptions import ToolkitError

_SHORTEST = 1e-3
"""Least seconds of a sample: shorter calls are timed several at once, as the clock has its own cost."""

_MOST = 1000
"""Most samples: more do not narrow the spread of a process."""

_MISSING = "missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Samples of one process."""

    seconds: list[float]
    """Seconds per call of each sample."""
    number: int
    """Calls per sample."""


def time_function(call: Callable[[], object], config: BenchmarkConfig) -> Timing:
    """Time a function: warm-up, then samples until there are enough of them and of their time."""
    evaluate = _find_evaluation(call)
    with _without_garbage_collection():
        number, spent = 1, 0.0
        while True:
            spent += (sample := _time(evaluate, number))
            if sample < _SHORTEST:
                number *= 2
            elif spent >= config.warmup:
                break
        seconds: list[float] = []
        while _wants_more(seconds, number, config):
            seconds.append(_time(evaluate, number) / number)
    return Timing(seconds=seconds, number=number)


def _wants_more(seconds: Sequence[float], number: int, config: BenchmarkConfig) -> bool:
    if len(seconds) < config.repeats:
        return True
    return sum(seconds) * number < config.min_time and len(seconds) < _MOST


def _find_evaluation(call: Callable[[], object]) -> Callable[[], object]:
    """Return a function that also evaluates the MLX arrays, which are lazy, that ``call`` returns."""
    first = call()
    mlx: Any = sys.modules.get("mlx.core")
    if mlx is None or first is None:
        return call
    mlx.eval(first)
    return lambda: mlx.eval(call())


def _time(call: Callable[[], object], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return time.perf_counter() - start


@contextmanager
def _without_garbage_collection() -> Generator[None]:
    """Keep the collector's pauses out of the samples, as ``timeit`` does."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandRun:
    """One run of a command."""

    seconds: float
    peak_memory: int
    """Peak resident memory in bytes."""
    output: dict[str, Any] | None
    """Last line that it printed, if that is a JSON object."""


def run_command(words: Sequence[str], timeout: float) -> CommandRun:
    """Run a command to its end.

    Raises
    ------
    ToolkitError
        If it cannot be started, fails or runs past ``timeout`` seconds.
    ModuleNotFoundError
        If it prints ``{"missing": …}``.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(words, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        except OSError as error:
            message = f"cannot run {words[0]}: {error.strerror or error}"
            raise ToolkitError(message) from error
        code, usage = _wait(process, timeout)
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        lines, errors = out.read().splitlines(), err.read().splitlines()
    if code is None or code != 0:
        reason = f"ran past {timeout:g} s" if code is None else f"ended with code {code}"
        raise ToolkitError(": ".join([f"{words[0]} {reason}", *errors[-1:]]))
    output = _parse(lines[-1] if lines else "")
    if output is not None and _MISSING in output:
        message = f"not installed: {output[_MISSING]}"
        raise ModuleNotFoundError(message)
    # Kilobytes, but on macOS bytes.
    return CommandRun(
        seconds=seconds,
        peak_memory=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        output=output,
    )


def _wait(process: subprocess.Popen[bytes], timeout: float) -> tuple[int | None, Any]:
    """Wait for a process; return its exit code, ``None`` after ``timeout``, and its resource usage."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def expire(*_: object) -> None:
        raise TimeoutError

    # Whoever ends this process means the command too.
    handlers = [(number, signal.signal(number, stop)) for number in (signal.SIGTERM, signal.SIGINT)]
    handlers.append((signal.SIGALRM, signal.signal(signal.SIGALRM, expire)))
    signal.setitimer(signal.ITIMER_REAL, timeout)
    expired = False
    try:
        # Unlike Popen.wait, wait4 tells the memory of this process alone.
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException as error:
        process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        if not isinstance(error, TimeoutError):
            raise
        expired = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        process.returncode = 0
        for number, handler in handlers:
            signal.signal(number, handler)
    return None if expired else os.waitstatus_to_exitcode(status), usage


def _parse(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
