"""``/generate``, ``/generate/batch``, ``/tokenize``, ``/detokenize``."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.server.conversation import Conversation, render
from efficientai_toolkit.server.errors import ApiError, JsonResponse
from efficientai_toolkit.server.generation import Generation, Prompt, Service, hold, while_connected
from efficientai_toolkit.server.pool import Lease
from efficientai_toolkit.server.protocol.logprobs import decode_token
from efficientai_toolkit.server.protocol.native import (
    BatchRequest,
    DetokenizeRequest,
    GenerateBase,
    GenerateRequest,
    TokenizeRequest,
)
from efficientai_toolkit.server.routes.chat import read_message
from efficientai_toolkit.server.streams import STREAMED, EventStream, encode_event


def create_router(service: Service) -> APIRouter:
    """Create the routes."""
    router = APIRouter()

    async def begin(request: Request, body: GenerateBase, prompts: list[Prompt]) -> tuple[Lease, Generation]:
        lease = await while_connected(request, service.pool.lease(body.model))
        return lease, await hold(lease, lambda: _begin(service, lease, body, prompts))

    @router.post("/generate", responses=STREAMED)
    async def generate(body: GenerateRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Continue a text."""
        lease, generation = await begin(request, body, [body.prompt])
        if body.stream:
            try:
                await generation.settle()
            except BaseException:
                generation.close()
                raise
            return EventStream(_stream(lease, generation), generation, request.url.path)
        try:
            [result] = await while_connected(request, _collect(generation, 1))
            return JsonResponse({"model": lease.name, **result})
        finally:
            generation.close()

    @router.post("/generate/batch")
    async def generate_batch(body: BatchRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Continue several texts."""
        lease, generation = await begin(request, body, list(body.prompts))
        try:
            results = await while_connected(request, _collect(generation, len(body.prompts)))
            return JsonResponse({"model": lease.name, "results": results})
        finally:
            generation.close()

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return the token ids of a text or a conversation."""
        if (body.prompt is None) == (not body.messages):
            message = "give either `prompt` or `messages`"
            raise ApiError(message, param="prompt")
        lease = await while_connected(request, service.pool.lease(body.model))
        try:
            ids = await asyncio.to_thread(_tokenize, lease, body)
            strings = {"token_strs": [decode_token(lease.version.tokenizer, each) for each in ids]}
            return JsonResponse(
                {
                    "model": lease.name,
                    "count": len(ids),
                    "max_model_len": lease.version.context_length,
                    "tokens": ids,
                    **(strings if body.return_token_strs else {}),
                }
            )
        finally:
            lease.close()

    @router.get("/tokenizer_info")
    async def describe_tokenizer(request: Request, model: str | None = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Describe the tokenizer as lm-evaluation-harness asks for it; its chat template stays here."""
        lease = await while_connected(request, service.pool.lease(model))
        try:
            tokenizer = lease.version.tokenizer
            special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
            return JsonResponse(
                {
                    "model": lease.name,
                    "vocab_size": tokenizer.vocab_size,
                    "model_max_length": lease.version.context_length,
                    **{
                        f"{name}_token": None if token is None else decode_token(tokenizer, token)
                        for name, token in special.items()
                    },
                }
            )
        finally:
            lease.close()

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return the text of token ids."""
        lease = await while_connected(request, service.pool.lease(body.model))
        try:
            text = await asyncio.to_thread(
                lease.version.tokenizer.decode,
                body.tokens,
                skip_special_tokens=bool(body.skip_special_tokens),
            )
            return JsonResponse({"model": lease.name, "prompt": text})
        finally:
            lease.close()

    return router


async def _begin(service: Service, lease: Lease, body: GenerateBase, prompts: list[Prompt]) -> Generation:
    ids = [await service.encode(lease, prompt, add_special_tokens=True) for prompt in prompts]
    room = min(service.count_room(lease, prompt, None) for prompt in ids)
    return service.start(lease, ids, {**body.settings(), "max_tokens": min(room, body.max_tokens)}, 1)


async def _collect(generation: Generation, count: int) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = [{"text": ""} for _ in range(count)]
    async for index, event in generation:
        results[index]["text"] += event.text
        if event.finish_reason is not None:
            results[index] |= {
                "finish_reason": event.finish_reason,
                "prompt_tokens": event.prompt_tokens,
                "generated_tokens": event.generated_tokens,
            }
    return results


async def _stream(lease: Lease, generation: Generation) -> AsyncIterator[bytes]:
    async for _, event in generation:
        if event.text:
            yield encode_event({"text": event.text})
        if event.finish_reason is not None:
            yield encode_event(
                {
                    "model": lease.name,
                    "finish_reason": event.finish_reason,
                    "prompt_tokens": event.prompt_tokens,
                    "generated_tokens": event.generated_tokens,
                }
            )


def _tokenize(lease: Lease, body: TokenizeRequest) -> list[int]:
    tokenizer = lease.version.tokenizer
    if body.prompt is not None:
        return tokenizer.encode(body.prompt, body.add_special_tokens is not False)
    conversation = Conversation(
        messages=[read_message(message) for message in body.messages or []],
        tools=[tool.model_dump(exclude_none=True) for tool in body.tools or []],
        settings={},
    )
    text = render(lease, conversation, opens_answer=body.add_generation_prompt is not False)
    return tokenizer.encode(text, bool(body.add_special_tokens))
