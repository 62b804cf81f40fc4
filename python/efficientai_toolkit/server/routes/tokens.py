"""``/tokenize``, ``/detokenize``, ``/tokenizer_info``."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.server.conversation import Conversation, render
from efficientai_toolkit.server.errors import ApiError, JsonResponse
from efficientai_toolkit.server.generation import Service, while_connected
from efficientai_toolkit.server.protocol.logprobs import decode_token
from efficientai_toolkit.server.protocol.native import DetokenizeRequest, TokenizeRequest
from efficientai_toolkit.server.routes.chat import read_message
from efficientai_toolkit.server.served import Lease


def create_router(service: Service) -> APIRouter:
    """Create the routes."""
    router = APIRouter()

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
            special = {
                "bos_token": tokenizer.bos_token_id,
                "eos_token": tokenizer.eos_token_id,
                "pad_token": tokenizer.pad_token_id,
            }
            return JsonResponse(
                {
                    "model": lease.name,
                    "vocab_size": tokenizer.vocab_size,
                    "model_max_length": lease.version.context_length,
                    **{
                        name: None if token is None else decode_token(tokenizer, token)
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
