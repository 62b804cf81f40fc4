"""``/v1/completions``."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.server.backend import Event, TokenLogprob
from efficientai_toolkit.server.errors import ApiError, JsonResponse
from efficientai_toolkit.server.generation import Generation, Service, hold, while_connected
from efficientai_toolkit.server.protocol.common import new_id
from efficientai_toolkit.server.protocol.completions import CompletionRequest, split_prompts
from efficientai_toolkit.server.protocol.logprobs import TextLogprobs
from efficientai_toolkit.server.served import Lease
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
                reply.generation.close()
        try:
            await reply.generation.settle()
        except BaseException:
            reply.generation.close()
            raise
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(reply.stream(with_usage=with_usage), reply.generation, request.url.path)

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
    given = split_prompts(body.prompt)
    prompts = [await service.encode(lease, prompt, add_special_tokens=True) for prompt in given]
    settings = body.settings()
    if body.logprobs is not None:
        settings["logprobs"] = body.logprobs
        if body.echo:
            settings["prompt_logprobs"] = body.logprobs
    asked = _MAX_TOKENS if body.max_tokens is None else body.max_tokens
    # The engine reports on a prompt with the first token after it, which is left out then.
    settings["max_tokens"] = (
        min(service.count_room(lease, prompt, asked) for prompt in prompts) if asked else 1
    )
    tokenizer = lease.version.tokenizer
    texts = [
        text
        if isinstance(text, str)
        else await asyncio.to_thread(tokenizer.decode, text, skip_special_tokens=False)
        for text in given
    ]
    choices = [
        _Choice(
            prompt=ids,
            echo=text if body.echo else None,
            logprobs=None if body.logprobs is None else TextLogprobs(tokenizer),
            is_continued=asked > 0,
        )
        for text, ids in zip(texts, prompts, strict=True)
        for _ in range(body.n or 1)
    ]
    return _Reply(lease, service.start(lease, prompts, settings, body.n or 1), choices)


class _Choice:
    """A choice as it grows.

    Parameters
    ----------
    prompt
        Token ids.
    echo
        Text of the prompt, if the choice begins with it.
    logprobs
        Takes the log-probabilities, if they are asked for.
    is_continued
        Whether generated text is part of it.
    """

    def __init__(
        self, *, prompt: list[int], echo: str | None, logprobs: TextLogprobs | None, is_continued: bool
    ) -> None:
        self.text = ""
        self.finish_reason: str | None = None
        self._prompt = prompt
        self._echo = echo
        self._logprobs = logprobs
        self._is_continued = is_continued

    @property
    def left_out(self) -> int:
        """Number of generated tokens that are no part of the text."""
        return 0 if self._is_continued else 1

    @property
    def tokens(self) -> int:
        """Number of tokens that have log-probabilities."""
        return 0 if self._logprobs is None else len(self._logprobs.values["tokens"])

    def add(self, event: Event) -> None:
        """Add what a step gave."""
        if self._echo is not None:
            self.text = self._echo
            if self._logprobs is not None:
                self._logprobs.begin(self._prompt[0], self._echo)
                self._add_logprobs(event.prompt_logprobs)
            self._echo = None
        if self._is_continued:
            self.text += event.text
            self._add_logprobs(event.logprobs)
        self.finish_reason = event.finish_reason if self._is_continued else event.finish_reason and "length"

    def describe(self, index: int, *, text_from: int = 0, tokens_from: int = 0) -> dict[str, Any]:
        """Return the object of the choice, from a position of its text and of its tokens on."""
        return {
            "index": index,
            "text": self.text[text_from:],
            "logprobs": None if self._logprobs is None else self._logprobs.since(tokens_from),
            "finish_reason": self.finish_reason,
        }

    def _add_logprobs(self, found: list[TokenLogprob]) -> None:
        if self._logprobs is not None:
            for each in found:
                self._logprobs.add(each.id, each.logprob, each.top)


class _Reply:
    """Turns events into one object, or into chunks."""

    def __init__(self, lease: Lease, generation: Generation, choices: list[_Choice]) -> None:
        self.generation = generation
        self._choices = choices
        self._common = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": lease.name,
            "system_fingerprint": None,
        }

    async def collect(self) -> dict[str, Any]:
        """Return the whole response."""
        async for index, event in self.generation:
            self._choices[index].add(event)
        choices = [choice.describe(index) for index, choice in enumerate(self._choices)]
        return {**self._common, "choices": choices, "usage": self._usage()}

    async def stream(self, *, with_usage: bool) -> AsyncIterator[bytes]:
        """Yield the events of the response."""
        extra = {"usage": None} if with_usage else {}
        async for index, event in self.generation:
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
        usage = self.generation.usage
        usage.generated -= sum(choice.left_out for choice in self._choices)
        return usage.describe()
