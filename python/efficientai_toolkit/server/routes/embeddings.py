"""``/v1/embeddings``.

https://platform.openai.com/docs/api-reference/embeddings/create
"""

import base64

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.server.errors import ApiError, JsonResponse
from efficientai_toolkit.server.generation import Service, while_connected
from efficientai_toolkit.server.protocol.completions import EmbeddingRequest, split_prompts
from efficientai_toolkit.server.served import Lease


def create_router(service: Service) -> APIRouter:
    """Create the route."""
    router = APIRouter()

    @router.post("/v1/embeddings")
    async def create_embedding(body: EmbeddingRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Turn texts into vectors."""
        lease = await while_connected(request, service.pool.lease(body.model))
        try:
            prompts = [
                await service.encode(lease, prompt, add_special_tokens=True)
                for prompt in split_prompts(body.input)
            ]
            vectors = await while_connected(request, _embed(lease, prompts, body.pooling or "mean"))
        finally:
            lease.close()
        if body.dimensions is not None and body.dimensions > vectors.shape[1]:
            message = (
                f"`dimensions` is {body.dimensions}, but the vectors of this model have {vectors.shape[1]}"
            )
            raise ApiError(message, param="dimensions")
        if body.dimensions is not None:
            vectors = vectors[:, : body.dimensions]
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        is_packed = body.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if is_packed
                else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ]
        tokens = sum(map(len, prompts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JsonResponse({"object": "list", "data": data, "model": lease.name, "usage": usage})

    return router


async def _embed(
    lease: Lease, prompts: list[list[int]], pooling: str
) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Return unit vectors, ``[prompts, hidden]``."""
    from efficientai_toolkit._engine.core import core

    model, tokenizer = lease.version.model, lease.version.tokenizer
    found = await lease.version.engine.call(
        lambda adapter: core.generate.embed(model, tokenizer, prompts, pooling, adapter),
        adapter=lease.adapter,
    )
    return np.array([vector for vector, _ in found], dtype=np.float32)
