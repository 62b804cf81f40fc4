"""Anthropic's ``/v1/messages`` and ``/v1/messages/count_tokens``."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.server.conversation import Answers, Conversation, answer, named, render
from efficientai_toolkit.server.dialects.base import CallArguments, CallStart, Delta, Reasoning, Text
from efficientai_toolkit.server.errors import ApiError, JsonResponse
from efficientai_toolkit.server.generation import Service, while_connected
from efficientai_toolkit.server.protocol.common import draw_seed, new_id, read_temperature, stop_strings
from efficientai_toolkit.server.protocol.messages import Block, CountRequest, MessageParam, MessagesRequest
from efficientai_toolkit.server.streams import STREAMED, EventStream, encode_event

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def create_router(service: Service) -> APIRouter:
    """Create the routes."""
    router = APIRouter()

    @router.post("/v1/messages", responses=STREAMED)
    async def create_message(body: MessagesRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Answer in a conversation."""
        conversation = _read(body)
        answers = await while_connected(request, answer(service, body.model, conversation))
        reply = _Reply(answers, conversation.settings["stop"])
        if not body.stream:
            try:
                return JsonResponse(await while_connected(request, reply.collect()))
            finally:
                answers.generation.close()
        try:
            await answers.generation.settle()
        except BaseException:
            answers.generation.close()
            raise
        return EventStream(reply.stream(), answers.generation, request.url.path)

    @router.post("/v1/messages/count_tokens")
    async def count_tokens(body: CountRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Count the tokens of a prompt."""
        conversation = _read_prompt(body)
        lease = await while_connected(request, service.pool.lease(body.model))
        try:
            text = await asyncio.to_thread(render, lease, conversation)
            ids = await asyncio.to_thread(lease.version.tokenizer.encode, text, False)  # noqa: FBT003
        finally:
            lease.close()
        return JsonResponse({"input_tokens": len(ids)})

    return router


def _read(body: MessagesRequest) -> Conversation:
    settings: dict[str, Any] = {
        "temperature": read_temperature(body.temperature),
        "stop": stop_strings(body.stop_sequences),
        "seed": draw_seed(None),
    }
    settings |= {
        name: value for name, value in (("top_p", body.top_p), ("top_k", body.top_k)) if value is not None
    }
    if body.output_config is not None and body.output_config.format is not None:
        settings["response_format"] = {"json_schema": body.output_config.format.schema_}
    return _read_prompt(body, settings=settings, max_tokens=body.max_tokens)


def _read_prompt(
    body: CountRequest, *, settings: dict[str, Any] | None = None, max_tokens: int | None = None
) -> Conversation:
    messages: list[dict[str, Any]] = []
    if body.system:
        messages.append({"role": "system", "content": _join(body.system)})
    for message in body.messages:
        messages += _read_message(message)
    choice = "auto"
    if body.tool_choice is not None:
        is_named = body.tool_choice.type == "tool"
        choice = named(body.tool_choice.name or "") if is_named else _CHOICES[body.tool_choice.type]
    options = {} if body.thinking is None else {"enable_thinking": body.thinking.type != "disabled"}
    return Conversation(
        messages=messages,
        settings=settings or {},
        max_tokens=max_tokens,
        tools=[
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description or "",
                    "parameters": tool.input_schema,
                },
            }
            for tool in body.tools or []
        ],
        choice=choice,
        is_parallel=not (body.tool_choice and body.tool_choice.disable_parallel_tool_use),
        template_options=options,
        continues=messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"),
    )


def _read_message(message: MessageParam) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    texts: list[Block] = []
    reasoning = ""
    for block in message.content:
        match block.type:
            case "tool_result":
                content = _join(block.content or "")
                results.append({"role": "tool", "tool_call_id": block.tool_use_id or "", "content": content})
            case "tool_use":
                function = {"name": block.name or "", "arguments": json.dumps(block.input or {})}
                calls.append({"id": block.id or "", "type": "function", "function": function})
            case "thinking":
                reasoning += block.thinking or ""
            case "redacted_thinking":
                pass
            case _:
                texts.append(block)
    if not texts and not calls and results:
        return results
    said: dict[str, Any] = {"role": message.role, "content": _join(texts)}
    if calls:
        said["tool_calls"] = calls
    if reasoning:
        said["reasoning_content"] = reasoning
    return [*results, said]


def _join(content: str | list[Block]) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if block.type != "text":
            message = f"a part of a message is {block.type[:50]!r}: these models read text only"
            raise ApiError(message, param="messages")
    return "\n\n".join(block.text or "" for block in content)


class _Reply:
    """Turns pieces into content blocks, and into the events that tell of them."""

    def __init__(self, answers: Answers, stops: list[str]) -> None:
        self._answers = answers
        self._stops = stops
        self._blocks: list[dict[str, Any]] = []
        self._is_open = False
        self._text = ""
        self._tokens: list[int] = []
        self._message: dict[str, Any] = {
            "id": new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": answers.lease.name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }

    async def collect(self) -> dict[str, Any]:
        """Return the whole message."""
        async for _ in self._events():
            pass
        for block in self._blocks:
            if block["type"] == "tool_use":
                block["input"] = _parse_input(block["input"])
        return {**self._message, "content": self._blocks}

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the events of the message."""
        async for event in self._events():
            yield encode_event(event, event["type"])

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        is_first = True
        reason: str | None = None
        async for piece in self._answers:
            if is_first:
                self._message["usage"] = self._usage(piece.event.prompt_tokens, piece.event.cached_tokens, 0)
                yield {"type": "message_start", "message": self._message}
                is_first = False
            self._text += piece.event.text
            self._tokens += piece.event.tokens
            for delta in piece.deltas:
                for event in self._apply(delta):
                    yield event
            reason = piece.event.finish_reason
        for event in self._close():
            yield event
        usage = self._answers.generation.usage
        self._message["usage"] = self._usage(usage.prompt, usage.cached, usage.generated)
        self._message["stop_reason"], self._message["stop_sequence"] = self._stop(reason)
        yield {
            "type": "message_delta",
            "delta": {
                "stop_reason": self._message["stop_reason"],
                "stop_sequence": self._message["stop_sequence"],
            },
            "usage": self._message["usage"],
        }
        yield {"type": "message_stop"}

    def _stop(self, reason: str | None) -> tuple[str, str | None]:
        if any(block["type"] == "tool_use" for block in self._blocks) and reason == "stop":
            return "tool_use", None
        if reason == "length":
            return "max_tokens", None
        # The engine leaves the stop string out of the text, but not its tokens.
        whole = self._answers.lease.version.tokenizer.decode(self._tokens)
        rest = whole[len(self._text) :] if whole.startswith(self._text) else ""
        found = next((stop for stop in self._stops if rest.startswith(stop)), None)
        return ("end_turn", None) if found is None else ("stop_sequence", found)

    @staticmethod
    def _usage(prompt: int, cached: int, generated: int) -> dict[str, Any]:
        return {
            "input_tokens": prompt - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": generated,
        }

    def _apply(self, delta: Delta) -> list[dict[str, Any]]:
        match delta:
            case Text(text):
                events = self._enter({"type": "text", "text": ""})
                self._blocks[-1]["text"] += text
                return [*events, self._delta({"type": "text_delta", "text": text})]
            case Reasoning(text):
                events = self._enter({"type": "thinking", "thinking": "", "signature": ""})
                self._blocks[-1]["thinking"] += text
                return [*events, self._delta({"type": "thinking_delta", "thinking": text})]
            case CallStart(name):
                events = self._close()
                identifier = self._answers.dialect.new_id()
                block: dict[str, Any] = {"type": "tool_use", "id": identifier, "name": name, "input": {}}
                events += self._open(block)
                # While it arrives, it is text.
                self._blocks[-1]["input"] = ""
                return events
            case CallArguments(text):
                self._blocks[-1]["input"] += text
                return [self._delta({"type": "input_json_delta", "partial_json": text})]

    def _enter(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        if self._is_open and self._blocks[-1]["type"] == block["type"]:
            return []
        return [*self._close(), *self._open(block)]

    def _open(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        self._blocks.append(block)
        self._is_open = True
        return [{"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": dict(block)}]

    def _close(self) -> list[dict[str, Any]]:
        if not self._is_open:
            return []
        self._is_open = False
        return [{"type": "content_block_stop", "index": len(self._blocks) - 1}]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}


def _parse_input(text: str) -> dict[str, Any]:
    """Return the arguments of a call; those that broke off are empty."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
