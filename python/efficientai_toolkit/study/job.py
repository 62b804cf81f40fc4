"""A function in one process of its own: its events, its peak of memory, and why it ended.

The function is named as text, ``"package.module:function"``. It takes a request, a JSON object, and
``emit``, which sends an event, also a JSON object, to whoever waits; what it returns is JSON too.
:func:`run_job` itself can be submitted to any executor of :mod:`concurrent.futures`, Dask's included.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from efficientai_toolkit.exceptions import ToolkitError

Emit = Callable[[Mapping[str, Any]], None]
"""Sends one event."""

_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """How a job ended."""

    value: Any = None
    """What the function returned."""
    error: str | None = None
    """Why there is no value: the error it raised, or how its process ended."""
    peak_memory: int | None = None
    """Most bytes that its process has held; ``None`` where it could not say."""


def run_job(
    function: str,
    request: Mapping[str, Any],
    *,
    on_event: Callable[[dict[str, Any]], object] | None = None,
) -> JobResult:
    """Call a function in a process of its own and wait for it.

    Parameters
    ----------
    function
        ``"package.module:function"``; it takes ``request`` and ``emit``.
    request
        A JSON object.
    on_event
        Receives each event. What it raises ends the process and comes back.

    Returns
    -------
    JobResult
        A ``ToolkitError`` of the function, or the end of its process, is an ``error``; nothing is raised.
    """
    command = [sys.executable, "-m", __spec__.name, function]
    result: JobResult | None = None
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            if process.stdin is not None:
                # A process that has ended already says so below.
                with suppress(BrokenPipeError), process.stdin:
                    json.dump(request, process.stdin)
            for line in process.stdout or ():
                kind, value = json.loads(line)
                if kind == "result":
                    result = JobResult(**value)
                elif on_event is not None:
                    on_event(value)
        except BaseException:
            process.terminate()
            raise
    return result or JobResult(error=_describe_end(process.returncode))


def _describe_end(code: int) -> str:
    if code < 0:
        return f"its process was killed by signal {-code}, perhaps for lack of memory"
    return f"its process ended with code {code}"


def _main(function: str) -> int:
    """The process of one job; its exit code is 0 also when the function fails in an orderly way."""
    # What the function prints must not come between the lines of the channel.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as channel:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def send(kind: str, value: Mapping[str, Any]) -> None:
            channel.write(json.dumps([kind, value]) + "\n")
            channel.flush()

        module, _, name = function.partition(":")
        try:
            request = json.load(sys.stdin)
            called: Callable[[dict[str, Any], Emit], Any] = getattr(import_module(module), name)
            value = called(request, partial(send, "event"))
        except ToolkitError as error:
            send("result", {"error": " ".join(str(error).split()), "peak_memory": _peak_memory()})
        except KeyboardInterrupt:
            # The parent was interrupted too, and says so.
            return _INTERRUPTED
        else:
            send("result", {"value": value, "peak_memory": _peak_memory()})
    return 0


def _peak_memory() -> int:
    """Most bytes this process has held."""
    if sys.platform == "linux":
        # What getrusage tells begins with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
