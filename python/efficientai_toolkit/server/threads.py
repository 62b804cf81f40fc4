"""Threads that are used again: MLX keeps a thread of its own for each one that ever computed."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_idle: list[SimpleQueue[Callable[[], None]]] = []
_lock = threading.Lock()


def start(work: Callable[[], None]) -> threading.Event:
    """Run ``work`` in a thread, and return an event that is set when it has ended."""
    ended = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            ended.set()

    with _lock:
        tasks = _idle.pop() if _idle else None
    if tasks is None:
        tasks = SimpleQueue[Callable[[], None]]()
        threading.Thread(target=_serve, args=(tasks,), name="engine", daemon=True).start()
    tasks.put(run)
    return ended


async def run(work: Callable[[], T]) -> T:
    """Await ``work`` in a thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(outcome: Callable[[], None]) -> None:
        if not future.done():
            outcome()

    def call() -> None:
        try:
            outcome = partial(future.set_result, work())
        except Exception as error:  # noqa: BLE001 (raised where it is awaited)
            outcome = partial(future.set_exception, error)
        # The loop is closed if the server was stopped without waiting.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, outcome)

    start(call)
    return await future


def _serve(tasks: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        # Nothing keeps the last work, and the model with it, while the thread waits.
        tasks.get()()
        with _lock:
            _idle.append(tasks)
