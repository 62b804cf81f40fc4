"""One thread per loaded model, which computes for many requests, and its bridge to the event loop.

A :class:`Backend` is driven step by step;
requests wait here until it has room, so that they can be refused, held back for an adapter that all requests
would share and cancelled without it.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.server.backend import Adapter, Backend, Event
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.threads import start

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model

T = TypeVar("T")

log = logging.getLogger(__package__)

_RETRY_AFTER = 1
"""Seconds until a refused client may try again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A prompt to continue."""

    prompt: list[int]
    settings: dict[str, Any]
    """Fields of the engine's ``GenerateConfig``, and those of the backend."""
    adapter: Adapter | None = None


class Ticket:
    """A request on its way; iterate over its events.

    After ``timeout`` seconds the request ends as if it had reached its number of tokens.
    """

    def __init__(self, engine: "EngineThread", request: Request, timeout: float) -> None:
        self.request = request
        self.submitted = time.monotonic()
        self.number = -1
        self.is_done = False
        self._engine = engine
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._deadline = asyncio.get_running_loop().time() + timeout

    def deliver(self, event: Event) -> None:
        """Hand an event to whoever iterates; called in the event loop."""
        self._events.put_nowait(event)

    def cancel(self) -> None:
        """Forget the request, wherever it is."""
        if not self.is_done:
            self._engine.cancel(self)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate until the event with a ``finish_reason``.

        Raises
        ------
        ApiError
            If the engine fails, or the time is over before the request had its turn.
        """
        last = Event()
        while last.finish_reason is None:
            try:
                async with asyncio.timeout_at(self._deadline):
                    last = await self._events.get()
            except TimeoutError:
                self.cancel()
                if not last.generated_tokens:
                    message = "the request waited too long for its turn"
                    raise ApiError(message, status=429, retry_after=_RETRY_AFTER) from None
                last = Event(
                    finish_reason="length",
                    prompt_tokens=last.prompt_tokens,
                    cached_tokens=last.cached_tokens,
                    generated_tokens=last.generated_tokens,
                )
            if last.finish_reason == "refused":
                raise ApiError(last.error or "the request cannot be computed")
            if last.finish_reason == "error":
                message = "the engine failed; the log of the server tells why"
                raise ApiError(message, status=500)
            if last.finish_reason == "cancelled":
                message = "the server is shutting down"
                raise ApiError(message, status=503, retry_after=_RETRY_AFTER)
            yield last


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """Work in the engine's thread, between steps."""

    work: Callable[[str | None], Any]
    """Takes the name of its adapter; ``None`` for what is on the model."""
    adapter: str | None
    done: Callable[[Any, Exception | None], None]


class EngineThread:
    """Generates for one model.

    Parameters
    ----------
    model
        Requests with different adapters are computed together. Those that cannot be, because they have whole
        modules, are put onto the model while nothing else runs.
    backend
        Driven by this thread alone.
    max_batch, max_queue
        Most requests that run, and that wait.
    """

    def __init__(
        self,
        model: "Model",
        backend: Backend,
        *,
        max_batch: int,
        max_queue: int,
    ) -> None:
        self._model = model
        self._backend = backend
        self._max_batch = max_batch
        self._max_queue = max_queue
        self.cached_bytes = 0
        """Size of the states of earlier prompts."""
        self._loop = asyncio.get_running_loop()
        self._condition = threading.Condition()
        self._waiting: deque[Ticket | _Call] = deque()
        self._running: dict[int, Ticket] = {}
        self._leaving: list[Ticket] = []
        self._adapter: Adapter | None = None
        """What is on the model."""
        self._is_closed = False
        self._ended = start(self._run)

    @property
    def running(self) -> int:
        """Number of requests that are computed."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._waiting)

    def submit(self, requests: list[Request], *, timeout: float) -> list[Ticket]:
        """Queue requests: all of them, or none.

        Raises
        ------
        ApiError
            429 if the queue is full, 503 if the server is shutting down.
        """
        tickets = [Ticket(self, request, timeout) for request in requests]
        with self._condition:
            if self._is_closed:
                message = "the model is being unloaded"
                raise ApiError(message, status=503, retry_after=_RETRY_AFTER)
            # An idle model takes a whole batch, however short its queue is.
            room = self._max_queue + max(self._max_batch - len(self._running), 0) - len(self._waiting)
            if len(tickets) > room:
                message = f"{len(self._waiting)} requests wait already; try again later"
                raise ApiError(message, status=429, code="queue_full", retry_after=_RETRY_AFTER)
            self._waiting += tickets
            self._condition.notify()
        return tickets

    async def call(self, work: Callable[[str | None], T], *, adapter: str | None = None) -> T:
        """Run ``work`` in the engine's thread, after the requests that came before have begun.

        It takes the name of the adapter to compute with; ``None`` if that is on the model.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def finish(value: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        with self._condition:
            if self._is_closed:
                message = "the model is being unloaded"
                raise ApiError(message, status=503, retry_after=_RETRY_AFTER)
            self._waiting.append(_Call(work=work, adapter=adapter, done=finish))
            self._condition.notify()
        return await future

    def cancel(self, ticket: Ticket) -> None:
        """Take a request out."""
        with self._condition:
            with suppress(ValueError):
                self._waiting.remove(ticket)
            ticket.is_done = True
            self._leaving.append(ticket)
            self._condition.notify()

    def close(self) -> None:
        """Cancel what is left and end the thread; waits for the step that is being computed."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._ended.wait()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._is_closed or self._waiting or self._running):
                    self._leaving.clear()
                    self._condition.wait()
                if self._is_closed:
                    break
            try:
                self._leave()
                self._admit()
                if self._running:
                    self._deliver(self._backend.step())
            except Exception:
                log.exception("the engine failed")
                self._fail()
        self._shut_down()

    def _leave(self) -> None:
        with self._condition:
            leaving, self._leaving = self._leaving, []
        for ticket in leaving:
            if self._running.pop(ticket.number, None) is not None:
                self._backend.cancel(ticket.number)

    def _admit(self) -> None:
        """Let those who wait join, in their order, while they need the same on the model."""
        while len(self._running) < self._max_batch:
            with self._condition:
                if not self._waiting:
                    return
                head = self._waiting[0]
                adapter = head.adapter if isinstance(head, _Call) else head.request.adapter
                shared = adapter if adapter is not None and not self._is_batchable(adapter) else None
                if shared != self._adapter and self._running:
                    return
                self._waiting.popleft()
            if isinstance(head, _Call):
                self._perform(head, head.adapter if shared is None else None, shared)
            else:
                self._join(head, adapter if shared is None else None, shared)

    def _is_batchable(self, adapter: Adapter) -> bool:
        names = [adapter] if isinstance(adapter, str) else [name for name, _ in adapter]
        try:
            return all(self._model.is_batchable(name) for name in names)
        except ToolkitError:
            # It was unloaded, which whoever asks for it is told.
            return True

    def _join(self, ticket: Ticket, own: Adapter | None, shared: Adapter | None) -> None:
        try:
            self._put_on(shared)
            ticket.number = self._backend.add(ticket.request.prompt, ticket.request.settings, own)
        except ToolkitError as error:
            self._send([(ticket, Event(finish_reason="refused", error=" ".join(str(error).split())))])
        else:
            self._running[ticket.number] = ticket

    def _perform(self, call: _Call, own: str | None, shared: Adapter | None) -> None:
        value, failure = None, None
        try:
            self._put_on(shared)
            value = call.work(own)
        except Exception as error:  # noqa: BLE001 (whoever waits for it gets it)
            failure = error
        self._in_loop(partial(call.done, value, failure))

    def _put_on(self, adapter: Adapter | None) -> None:
        if adapter != self._adapter:
            self._model.set_adapter(dict(adapter) if isinstance(adapter, tuple) else adapter)
            self._adapter = adapter

    def _deliver(self, events: list[tuple[int, Event]]) -> None:
        sent: list[tuple[Ticket, Event]] = []
        for number, event in events:
            ticket = self._running.get(number)
            if ticket is None:
                continue
            if event.finish_reason is not None:
                del self._running[number]
                # Between steps: the engine answers no other thread while it computes.
                self.cached_bytes = self._backend.count_cached_bytes()
            sent.append((ticket, _explain(ticket.request, event)))
        self._send(sent)

    def _send(self, events: list[tuple[Ticket, Event]]) -> None:
        def deliver() -> None:
            for ticket, event in events:
                ticket.is_done = ticket.is_done or event.finish_reason is not None
                ticket.deliver(event)

        if events:
            self._in_loop(deliver)

    def _in_loop(self, work: Callable[[], None]) -> None:
        # The loop is closed if the server was stopped without waiting.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work)

    def _fail(self) -> None:
        """Tell everybody who runs; those who wait have their turn."""
        running, self._running = self._running, {}
        for number in running:
            with suppress(Exception):
                self._backend.cancel(number)
        self._send([(ticket, Event(finish_reason="error")) for ticket in running.values()])

    def _shut_down(self) -> None:
        running, self._running = self._running, {}
        for number in running:
            self._backend.cancel(number)
        with self._condition:
            waiting, self._waiting = list(self._waiting), deque()
        tickets = [*running.values(), *(item for item in waiting if isinstance(item, Ticket))]
        self._send([(ticket, Event(finish_reason="cancelled")) for ticket in tickets])
        message = "the model was unloaded"
        for call in waiting:
            if isinstance(call, _Call):
                self._in_loop(partial(call.done, None, ApiError(message, status=503)))
        self._backend.close()


def _explain(request: Request, event: Event) -> Event:
    """Tell a request that is at fault from an engine that is: only formats fail because of what was asked."""
    if event.finish_reason != "error":
        return event
    log.error("a generation failed: %s", event.error)
    return replace(event, finish_reason="refused") if "response_format" in request.settings else event
