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
from typing import IO, Any, cast

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
    """Peak resident memory in bytes; it begins with that of this process, from which the command starts."""
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
    with _text_file() as out, _text_file() as err:
        start = time.perf_counter()
        code, usage = _run_to_end(words, timeout, out, err)
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


def _text_file() -> IO[str]:
    # What a command prints may be anything.
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def _run_to_end(words: Sequence[str], timeout: float, out: IO[str], err: IO[str]) -> tuple[int | None, Any]:
    """Run a process; return its exit code, ``None`` after ``timeout``, and its resource usage."""
    process: subprocess.Popen[bytes] | None = None
    with _signals_as_exceptions(timeout):
        try:
            process = subprocess.Popen(words, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
            return _wait(process)
        except OSError as error:
            message = f"cannot run {words[0]}: {error.strerror or error}"
            raise ToolkitError(message) from error
        except _Expired:
            if process is None:
                raise
            process.kill()
            return None, _wait(process)[1]
        except KeyboardInterrupt:
            # Whoever ends this process means the command too.
            if process is not None:
                process.kill()
                _wait(process)
            raise


class _Expired(Exception):  # noqa: N818
    """A command has run too long."""


@contextmanager
def _signals_as_exceptions(timeout: float) -> Generator[None]:
    """Raise an exception, once, for a signal that ends this process and after ``timeout`` seconds."""
    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)

    def stop(number: int, _: object) -> None:
        # A second one must not come between the exception and what it ends.
        for each in ending:
            signal.signal(each, signal.SIG_IGN)
        raise _Expired if number == signal.SIGALRM else KeyboardInterrupt

    handlers = [(number, signal.signal(number, stop)) for number in ending]
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers:
            signal.signal(number, handler)


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, Any]:
    """Wait for a process; unlike ``Popen.wait`` this tells the memory of this process alone."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage


def _parse(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
