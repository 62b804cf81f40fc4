"""``/v1/completions``."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.server.backend import Event, TokenLogprob
from efficientai_toolkit.server.errors import ApiError, JsonResponse
from efficientai_toolkit.server.generation import Generation, Service, hold, while_connected
from efficientai_toolkit.server.pool import Lease
from efficientai_toolkit.server.protocol.common import new_id
from efficientai_toolkit.server.protocol.completions import CompletionRequest, split_prompts
from efficientai_toolkit.server.protocol.logprobs import TextLogprobs
from efficientai_toolkit.server.scoring import score_prompt
from efficientai_toolkit.server.streams import DONE, STREAMED, EventStream, encode_event

_MAX_TOKENS = 16
"""OpenAI's default."""


def create_router(service: Service) -> APIRouter:
    """Create the route."""
    router = APIRouter()

    @router.post("/v1/completions", responses=STREAMED)
    async def create_completion(body: CompletionRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Continue texts."""
        _check(body)
        lease = await while_connected(request, service.pool.lease(body.model))
        reply = await hold(lease, lambda: while_connected(request, _begin(service, lease, body)))
        if not body.stream:
            try:
                return JsonResponse(await while_connected(request, reply.collect()))
            finally:
                reply.close()
        try:
            await reply.settle()
        except BaseException:
            reply.close()
            raise
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(reply.stream(with_usage=with_usage), reply, request.url.path)

    return router


def _check(body: CompletionRequest) -> None:
    if body.suffix:
        message = "`suffix` is not supported: these models continue texts, they do not fill gaps"
        raise ApiError(message, param="suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        message = "`best_of` has to be `n`: every choice is returned"
        raise ApiError(message, param="best_of")
    if body.max_tokens == 0 and not body.echo:
        message = "`max_tokens` 0 needs `echo`: else there is nothing to return"
        raise ApiError(message, param="max_tokens")


async def _begin(service: Service, lease: Lease, body: CompletionRequest) -> "_Reply":
    prompts = [
        await service.encode(lease, prompt, add_special_tokens=True) for prompt in split_prompts(body.prompt)
    ]
    settings = body.settings()
    if body.logprobs is not None:
        settings["logprobs"] = body.logprobs
    asked = _MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if asked:
        rooms = [service.count_room(lease, prompt, asked) for prompt in prompts]
        settings["max_tokens"] = min(rooms)
    echoes = await _echo(lease, body, prompts)
    n = body.n or 1
    generation = service.start(lease, prompts, settings, n) if asked else None
    choices = [
        _Choice(
            text=echo.text,
            logprobs=None if body.logprobs is None else echo.describe(lease),
            finish_reason=None if asked else "length",
        )
        for echo in echoes
        for _ in range(n)
    ]
    return _Reply(lease, generation, choices, prompts)


@dataclass(kw_only=True, slots=True)
class _Echo:
    """The prompt as the beginning of a text."""

    text: str = ""
    first: int | None = None
    scores: list[TokenLogprob]

    def describe(self, lease: Lease) -> TextLogprobs:
        logprobs = TextLogprobs(lease.version.tokenizer)
        if self.first is not None:
            logprobs.begin(self.first, self.text)
        for score in self.scores:
            logprobs.add(score.id, score.logprob, score.top)
        return logprobs


async def _echo(lease: Lease, body: CompletionRequest, prompts: list[list[int]]) -> list[_Echo]:
    if not body.echo:
        return [_Echo(scores=[]) for _ in prompts]
    echoes: list[_Echo] = []
    for given, ids in zip(split_prompts(body.prompt), prompts, strict=True):
        decode = lease.version.tokenizer.decode
        text = (
            given
            if isinstance(given, str)
            else await asyncio.to_thread(decode, ids, skip_special_tokens=False)
        )
        scores = [] if body.logprobs is None else await score_prompt(lease, ids, body.logprobs)
        echoes.append(_Echo(text=text, first=ids[0], scores=scores))
    return echoes


@dataclass(kw_only=True, slots=True)
class _Choice:
    """A choice as it grows."""

    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None

    def add(self, event: Event) -> None:
        self.text += event.text
        self.finish_reason = event.finish_reason
        if self.logprobs is not None:
            for each in event.logprobs:
                self.logprobs.add(each.id, each.logprob, each.top)

    def describe(self, index: int, *, text_from: int = 0, tokens_from: int = 0) -> dict[str, Any]:
        return {
            "index": index,
            "text": self.text[text_from:],
            "logprobs": None if self.logprobs is None else self.logprobs.since(tokens_from),
            "finish_reason": self.finish_reason,
        }

    @property
    def tokens(self) -> int:
        """Number of tokens that ``logprobs`` has."""
        return 0 if self.logprobs is None else len(self.logprobs.values["tokens"])


class _Reply:
    """Turns events into one object, or into chunks."""

    def __init__(
        self, lease: Lease, generation: Generation | None, choices: list[_Choice], prompts: list[list[int]]
    ) -> None:
        self._lease = lease
        self._generation = generation
        self._choices = choices
        self._prompts = prompts
        self._common = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": lease.name,
            "system_fingerprint": None,
        }

    async def settle(self) -> None:
        """Wait until the engine has checked the request."""
        if self._generation is not None:
            await self._generation.settle()

    def close(self) -> None:
        """Cancel what still runs, and give the model back."""
        if self._generation is not None:
            self._generation.close()
        self._lease.close()

    async def collect(self) -> dict[str, Any]:
        """Return the whole response."""
        if self._generation is not None:
            async for index, event in self._generation:
                self._choices[index].add(event)
        choices = [choice.describe(index) for index, choice in enumerate(self._choices)]
        return {**self._common, "choices": choices, "usage": self._usage()}

    async def stream(self, *, with_usage: bool) -> AsyncIterator[bytes]:
        """Yield the events of the response."""
        extra = {"usage": None} if with_usage else {}
        for index, choice in enumerate(self._choices):
            if choice.text or choice.finish_reason is not None:
                yield encode_event({**self._common, "choices": [choice.describe(index)], **extra})
        if self._generation is not None:
            async for index, event in self._generation:
                choice = self._choices[index]
                text, tokens = len(choice.text), choice.tokens
                choice.add(event)
                if len(choice.text) > text or choice.tokens > tokens or choice.finish_reason is not None:
                    part = choice.describe(index, text_from=text, tokens_from=tokens)
                    yield encode_event({**self._common, "choices": [part], **extra})
        if with_usage:
            yield encode_event({**self._common, "choices": [], "usage": self._usage()})
        yield DONE

    def _usage(self) -> dict[str, Any]:
        if self._generation is not None:
            return self._generation.usage.describe()
        prompt = sum(map(len, self._prompts))
        return {"prompt_tokens": prompt, "completion_tokens": 0, "total_tokens": prompt}
