"""Functions that run in processes of their own."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from efficientai_toolkit.exceptions import ConfigError

Emit = Callable[[Mapping[str, Any]], None]


def double(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Prints between its events."""
    for number in range(request["number"]):
        sys.stdout.write("not an event\n")
        emit({"done": number + 1})
    return {"twice": 2 * request["number"], "pid": os.getpid()}


def hold(request: dict[str, Any], emit: Emit) -> int:
    """Needs memory."""
    return len(bytearray(request["bytes"]))


def sleep(request: dict[str, Any], emit: Emit) -> str:
    """Takes its time."""
    time.sleep(request["seconds"])
    return "awake"


def refuse(request: dict[str, Any], emit: Emit) -> None:
    message = "no\n  way"
    raise ConfigError(message)


def crash(request: dict[str, Any], emit: Emit) -> None:
    raise ZeroDivisionError


def die(request: dict[str, Any], emit: Emit) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def witness(request: dict[str, Any], emit: Emit) -> None:
    """Tells its process, and saves something when it is interrupted."""
    file = Path(request["file"])
    file.write_text(str(os.getpid()))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        emit({"saving": True})
        file.with_name("saved").touch()
        raise
