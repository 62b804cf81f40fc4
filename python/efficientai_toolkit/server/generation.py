"""From a request to the engine and back: prompts in, events of all choices out."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from efficientai_toolkit.server.backend import Event
from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.engine import Request, Ticket
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.metrics import Metrics
from efficientai_toolkit.server.pool import Pool
from efficientai_toolkit.server.served import Lease

T = TypeVar("T")

Prompt = str | list[int]

_SETTLE_SECS = 5.0
"""A stream that has to wait longer begins without having been checked by the engine."""


class Service:
    """What routes need: the pool, the limits, the metrics."""

    def __init__(self, config: ServeConfig, pool: Pool, metrics: Metrics) -> None:
        self.config = config
        self.pool = pool
        self.metrics = metrics
        self.is_draining = False

    async def encode(self, lease: Lease, prompt: Prompt, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a prompt.

        Raises
        ------
        ApiError
            If the prompt is empty or too long.
        """
        if isinstance(prompt, str):
            tokenizer = lease.version.tokenizer
            ids = await asyncio.to_thread(tokenizer.encode, prompt, add_special_tokens)
        else:
            ids = prompt
        if not ids:
            message = "the prompt has no tokens"
            raise ApiError(message, param="prompt")
        _check_vocabulary(lease, max(ids), "prompt")
        limit = self.config.max_prompt_tokens
        context = lease.version.context_length
        if context is not None:
            limit = min(context, limit or context)
        if limit is not None and len(ids) > limit:
            message = f"the prompt has {len(ids)} tokens, more than the {limit} that this model takes"
            raise ApiError(message, param="prompt", code="context_length_exceeded")
        return ids

    def count_room(self, lease: Lease, prompt: Sequence[int], asked: int | None) -> int:
        """Return how many tokens may follow a prompt: what was asked for, within the limits.

        Raises
        ------
        ApiError
            If the context has no room for what was asked.
        """
        limit = self.config.max_output_tokens
        context = lease.version.context_length
        room = limit if context is None else min(limit, context - len(prompt))
        if context is not None and len(prompt) + (asked or 1) > context:
            message = (
                f"the prompt has {len(prompt)} tokens and {asked or 1} are to follow, but the context of "
                f"the model is {context}"
            )
            raise ApiError(message, code="context_length_exceeded")
        return room if asked is None else min(asked, limit)

    def start(
        self, lease: Lease, prompts: Sequence[list[int]], settings: Mapping[str, Any], n: int
    ) -> "Generation":
        """Queue ``n`` choices of each prompt; the seeds of further choices follow the first.

        Raises
        ------
        ApiError
            If the queue is full, or a bias is of no token.
        """
        if "logit_bias" in settings:
            _check_vocabulary(lease, max(map(int, settings["logit_bias"])), "logit_bias")
        requests = [
            Request(
                prompt=prompt,
                settings={**settings, "seed": (settings.get("seed", 0) + choice) % 2**64},
                adapter=lease.blend or lease.adapter,
            )
            for prompt in prompts
            for choice in range(n)
        ]
        tickets = lease.version.engine.submit(requests, timeout=self.config.request_timeout)
        return Generation(tickets, lease, self.metrics)


def _check_vocabulary(lease: Lease, token: int, param: str) -> None:
    size = lease.version.vocabulary
    if token >= size:
        message = f"`{param}` holds token {token}, but the vocabulary has {size}"
        raise ApiError(message, param=param)


class Generation:
    """The choices of a request while they are generated; iterate over ``(index, event)``.

    Whoever holds it closes it: what still runs is then cancelled.
    """

    def __init__(self, tickets: list[Ticket], lease: Lease, metrics: Metrics) -> None:
        self.usage = Usage()
        self._tickets = tickets
        self._lease = lease
        self._metrics = metrics
        self._started = time.monotonic()
        self._running = len(tickets)
        self._merged: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue()
        self._first: tuple[int, Event | Exception] | None = None
        self._tasks = [asyncio.create_task(self._pump(index, ticket)) for index, ticket in enumerate(tickets)]

    async def settle(self) -> None:
        """Wait for the first event, a few seconds at most: what is wrong is known before a stream begins."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECS):
                self._first = await self._merged.get()
        if self._first is not None and isinstance(self._first[1], Exception):
            raise self._first[1]

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """Iterate over the events of all choices as they come."""
        waiting = set(range(len(self._tickets)))
        unfinished = set(waiting)
        while unfinished:
            index, event = self._first or await self._merged.get()
            self._first = None
            if isinstance(event, Exception):
                raise event
            if index in waiting and event.generated_tokens:
                waiting.discard(index)
                self._metrics.first_token(self._lease.name, time.monotonic() - self._started)
            if event.finish_reason is not None:
                unfinished.discard(index)
                self.usage.add(event, self._tickets[index].request.prompt)
                self._metrics.finished(self._lease.name, event, time.monotonic() - self._started)
            yield index, event

    def close(self) -> None:
        """Cancel what still runs, and give the model back."""
        for task in self._tasks:
            task.cancel()
        for ticket in self._tickets:
            ticket.cancel()
        self._lease.close()

    async def _pump(self, index: int, ticket: Ticket) -> None:
        try:
            async for event in ticket:
                self._merged.put_nowait((index, event))
        except Exception as error:  # noqa: BLE001 (raised where it is read)
            self._merged.put_nowait((index, error))
        self._running -= 1
        if not self._running:
            # A client that reads slowly, or never, keeps no model.
            self._lease.close()


class Usage:
    """Tokens of a request."""

    def __init__(self) -> None:
        self.prompt = 0
        self.cached = 0
        self.generated = 0
        self._prompts: set[int] = set()

    def add(self, event: Event, prompt: list[int]) -> None:
        """Add a finished choice; those of one prompt share it."""
        if id(prompt) not in self._prompts:
            self._prompts.add(id(prompt))
            self.prompt += event.prompt_tokens
            self.cached += event.cached_tokens
        self.generated += event.generated_tokens

    def describe(self) -> dict[str, Any]:
        """Return OpenAI's object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


async def while_connected(request: HttpRequest, work: Awaitable[T]) -> T:
    """Await ``work``, and cancel it when the client leaves.

    Raises
    ------
    ApiError
        If the client left; nobody reads it.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_wait_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        message = "the client left"
        raise ApiError(message, status=499)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()


async def _wait_until_gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def hold(lease: Lease, work: Callable[[], Awaitable[T]]) -> T:
    """Await ``work``, giving the lease back if it fails."""
    try:
        return await work()
    except BaseException:
        lease.close()
        raise
