"""Jobs: functions that run in a separate process.

A job is a function named by a string, ``"package.module:function"``. It receives a request, a JSON object,
and a function that emits events, also JSON objects, and returns a JSON value. :func:`run_job` can be
submitted to any :class:`concurrent.futures.Executor`, including Dask's.

The standard input of a job stays open as long as the process that started it lives. At its end the job is
interrupted as by Ctrl-C, on every system and also after ``kill -9``, so that no job outlives its parent.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Event, Thread, Timer
from typing import IO, Any

from efficientai_toolkit.exceptions import ToolkitError

Emit = Callable[[Mapping[str, Any]], None]
"""Function that emits an event."""

Process = subprocess.Popen[str]
"""Process of a job."""

_INTERRUPTED = 130

_LAST_LINES = 5.0
"""Seconds after the end of a job in which processes that it left behind may hold back its last lines."""

_GRACE = 20.0
"""Seconds in which a job whose parent has died may save what it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """Result of a job."""

    value: Any = None
    """Return value of the function."""
    error: str | None = None
    """Message of the exception raised, or how the process ended; ``None`` on success."""
    peak_memory: int | None = None
    """Peak resident memory of the process in bytes; ``None`` if the process was killed."""


def run_job(
    function: str,
    request: Mapping[str, Any],
    *,
    on_event: Callable[[dict[str, Any]], object] | None = None,
    on_line: Callable[[str], object] | None = None,
    on_start: Callable[[Process], object] | None = None,
    keep_open: Sequence[int] = (),
    timeout: float | None = None,
) -> JobResult:
    """Run a function in a separate process and wait for its result.

    Parameters
    ----------
    function
        ``"package.module:function"``, called with ``request`` and ``emit``.
    request
        A JSON object.
    on_event
        Called with each event. An exception terminates the process and propagates.
    on_line
        Called in another thread with each line that the job prints; by default they go to standard error.
    on_start
        Called with the process, which SIGINT interrupts as Ctrl-C does.
    keep_open
        Descriptors of this process that the job keeps open, such as that of a lock.
    timeout
        Seconds after which the process is killed; by default it may take as long as it wants.

    Returns
    -------
    JobResult
        Failures of the function or its process are reported in ``error`` and not raised.

    Raises
    ------
    KeyboardInterrupt
        If the process was interrupted.
    """
    command = [sys.executable, "-m", __spec__.name, function]
    result: JobResult | None = None
    expired = Event()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if on_line is None else subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        pass_fds=keep_open,
    ) as process:
        timer = Timer(timeout or 0, _expire, (process, expired))
        reader = Thread(target=_read_lines, args=(process.stderr, on_line), daemon=True)
        try:
            if timeout is not None:
                timer.start()
            reader.start()
            if on_start is not None:
                on_start(process)
            if process.stdin is not None:
                # A process that has ended already says so below.
                with suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(request) + "\n")
                    process.stdin.flush()
            for line in process.stdout or ():
                kind, value = json.loads(line)
                if kind == "result":
                    result = JobResult(**value)
                elif on_event is not None:
                    on_event(value)
            # Before its standard input is closed, which would interrupt it.
            process.wait()
            reader.join(_LAST_LINES)
        except BaseException:
            process.terminate()
            raise
        finally:
            timer.cancel()
    if result is None and expired.is_set():
        return JobResult(error=f"ran past {timeout:g} s")
    if result is None and process.returncode in {_INTERRUPTED, -signal.SIGINT}:
        # Ctrl-C is for both processes; the exception of this one may have been raised where it is ignored.
        raise KeyboardInterrupt
    return result or JobResult(error=_describe_end(process.returncode))


def _read_lines(stream: IO[str] | None, on_line: Callable[[str], object] | None) -> None:
    # The stream is closed while it is read if processes that the job left behind hold it.
    with suppress(ValueError, OSError):
        for line in stream or ():
            if on_line is not None:
                on_line(line.rstrip("\n"))


def _expire(process: subprocess.Popen[str], expired: Event) -> None:
    # In this order: the reader sees the end of the process at once.
    expired.set()
    process.kill()


def _describe_end(code: int) -> str:
    if code < 0:
        return f"its process was killed by signal {-code}, perhaps for lack of memory"
    return f"its process ended with code {code}"


def _main(function: str) -> int:
    """Run a job in this process; the exit code is 0 also after a ``ToolkitError``."""
    # What the function prints must not come between the lines of the channel.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as channel:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def send(kind: str, value: Mapping[str, Any]) -> None:
            channel.write(json.dumps([kind, value]) + "\n")
            channel.flush()

        module, _, name = function.partition(":")
        # In the background of a shell it would be ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            request = json.loads(sys.stdin.readline())
            _watch_parent(channel.fileno())
            called: Callable[[dict[str, Any], Emit], Any] = getattr(import_module(module), name)
            value = called(request, partial(send, "event"))
        except ToolkitError as error:
            send("result", {"error": " ".join(str(error).split()), "peak_memory": peak_memory()})
        except KeyboardInterrupt:
            # The parent was interrupted too, and says so.
            return _INTERRUPTED
        else:
            send("result", {"value": value, "peak_memory": peak_memory()})
    return 0


def _watch_parent(channel: int) -> None:
    """Interrupt this process when the one that started it has ended, whose end closes standard input."""
    watched = os.dup(sys.stdin.fileno())
    nowhere = os.open(os.devnull, os.O_RDWR)
    # What the function starts must not wait for input.
    os.dup2(nowhere, sys.stdin.fileno())

    def watch() -> None:
        while os.read(watched, 1):
            pass
        # Nobody reads what is written from now on, which must not fail: a checkpoint is to be saved.
        for descriptor in (channel, sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(nowhere, descriptor)
        os.kill(os.getpid(), signal.SIGINT)
        Event().wait(_GRACE)
        os._exit(_INTERRUPTED)

    Thread(target=watch, daemon=True).start()


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    if sys.platform == "linux":
        # What getrusage tells begins with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
