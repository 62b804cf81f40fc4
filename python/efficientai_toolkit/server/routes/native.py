"""``/generate``, ``/generate/batch``."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.server.errors import JsonResponse
from efficientai_toolkit.server.generation import Generation, Prompt, Service, hold, while_connected
from efficientai_toolkit.server.protocol.native import BatchRequest, GenerateBase, GenerateRequest
from efficientai_toolkit.server.served import Lease
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
