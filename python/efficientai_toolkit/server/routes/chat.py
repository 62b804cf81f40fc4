"""``/v1/chat/completions``."""

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.server.conversation import Answers, Conversation, Piece, answer, named
from efficientai_toolkit.server.dialects.base import CallArguments, CallStart, Delta, Reasoning, Text
from efficientai_toolkit.server.errors import ApiError, JsonResponse
from efficientai_toolkit.server.generation import Service, while_connected
from efficientai_toolkit.server.protocol.chat import (
    AllowedTools,
    ChatRequest,
    Content,
    FunctionTool,
    Message,
    NamedTool,
)
from efficientai_toolkit.server.protocol.common import new_id
from efficientai_toolkit.server.protocol.logprobs import describe_logprobs
from efficientai_toolkit.server.streams import DONE, STREAMED, EventStream, encode_event


def create_router(service: Service) -> APIRouter:
    """Create the route."""
    router = APIRouter()

    @router.post("/v1/chat/completions", responses=STREAMED)
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Answer in a conversation."""
        answers = await while_connected(request, answer(service, body.model, _read(body)))
        reply = _Reply(answers, has_logprobs=bool(body.logprobs))
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
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(reply.stream(with_usage=with_usage), answers.generation, request.url.path)

    return router


def _read(body: ChatRequest) -> Conversation:
    settings = body.settings()
    if body.logprobs:
        settings["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs is not None:
        message = "`top_logprobs` needs `logprobs` to be true"
        raise ApiError(message, param="top_logprobs")
    if body.continue_final_message and body.messages[-1].role != "assistant":
        message = "`continue_final_message` needs a last message of the assistant"
        raise ApiError(message, param="continue_final_message")
    options = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        options.setdefault("reasoning_effort", body.reasoning_effort)
    choice, tools = _read_choice(body)
    return Conversation(
        messages=[read_message(message) for message in body.messages],
        settings=settings,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        n=body.n or 1,
        tools=[tool.model_dump(exclude_none=True) for tool in tools],
        choice=choice,
        is_parallel=body.parallel_tool_calls is not False,
        template_options=options,
        continues=bool(body.continue_final_message),
    )


def read_message(message: Message) -> dict[str, Any]:
    """Return a message as chat templates read it."""
    values = message.model_dump(exclude_none=True)
    values["content"] = read_content(message.content)
    return values


def read_content(content: Content | None) -> str:
    """Return the text of a message.

    Raises
    ------
    ApiError
        If a part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in {"text", "refusal", "input_text", "output_text"}:
            message = f"a part of a message is {part.type[:50]!r}: these models read text only"
            raise ApiError(message, param="messages")
    return "".join(part.text or part.refusal or "" for part in content)


def _read_choice(body: ChatRequest) -> tuple[str, list[FunctionTool]]:
    """Return how tools are chosen, and the tools there are to choose from."""
    tools = body.tools or []
    match body.tool_choice:
        case NamedTool(function=function):
            return named(function.name), tools
        case AllowedTools(allowed_tools=allowed):
            names = {tool.function.name for tool in allowed.tools}
            if unknown := names - {tool.function.name for tool in tools}:
                message = f"`tool_choice` allows {min(unknown)[:100]!r}, which is none of the `tools`"
                raise ApiError(message, param="tool_choice")
            return allowed.mode, [tool for tool in tools if tool.function.name in names]
        case choice:
            return choice or "auto", tools


class _Choice:
    """A choice as it grows."""

    def __init__(self) -> None:
        self.content = ""
        self.reasoning = ""
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.finish_reason: str | None = None

    def describe(self, index: int, *, has_logprobs: bool) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.content or (None if self.calls else ""),
            "refusal": None,
        }
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": self.logprobs, "refusal": None} if has_logprobs else None,
            "finish_reason": self.finish_reason,
        }


class _Reply:
    """Turns pieces into one object, or into chunks."""

    def __init__(self, answers: Answers, *, has_logprobs: bool) -> None:
        self._answers = answers
        self._has_logprobs = has_logprobs
        self._choices: dict[int, _Choice] = {}
        self._common = {
            "id": new_id("chatcmpl-"),
            "created": int(time.time()),
            "model": answers.lease.name,
            "system_fingerprint": None,
        }

    async def collect(self) -> dict[str, Any]:
        """Return the whole response."""
        async for piece in self._answers:
            self._add(piece)
        return {
            **self._common,
            "object": "chat.completion",
            "choices": [
                choice.describe(index, has_logprobs=self._has_logprobs)
                for index, choice in sorted(self._choices.items())
            ],
            "usage": self._answers.generation.usage.describe(),
        }

    async def stream(self, *, with_usage: bool) -> AsyncIterator[bytes]:
        """Yield the events of the response."""
        empty = {"usage": None} if with_usage else {}
        async for piece in self._answers:
            is_new = piece.index not in self._choices
            changes = self._add(piece)
            choice = self._choices[piece.index]
            if is_new:
                yield self._chunk(piece.index, {"role": "assistant", "content": ""}, empty)
            logprobs = self._describe_logprobs(piece)
            if logprobs and not changes:
                # Text that is held back still has its tokens.
                changes = [{"content": ""}]
            for change in changes:
                yield self._chunk(piece.index, change, empty, logprobs=logprobs)
                logprobs = []
            if choice.finish_reason is not None:
                yield self._chunk(piece.index, {}, empty, finish_reason=choice.finish_reason)
        if with_usage:
            usage = self._answers.generation.usage.describe()
            yield encode_event(
                {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage}
            )
        yield DONE

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        extra: dict[str, Any],
        *,
        logprobs: list[dict[str, Any]] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": {"content": logprobs, "refusal": None} if logprobs else None,
            "finish_reason": finish_reason,
        }
        return encode_event({**self._common, "object": "chat.completion.chunk", "choices": [choice], **extra})

    def _add(self, piece: Piece) -> list[dict[str, Any]]:
        """Add a piece to its choice, and return it as the deltas of chunks."""
        choice = self._choices.setdefault(piece.index, _Choice())
        changes = [self._apply(choice, delta) for delta in piece.deltas]
        choice.logprobs += self._describe_logprobs(piece)
        choice.finish_reason = piece.finish_reason(has_calls=bool(choice.calls))
        return changes

    def _apply(self, choice: _Choice, delta: Delta) -> dict[str, Any]:
        match delta:
            case Text(text):
                choice.content += text
                return {"content": text}
            case Reasoning(text):
                choice.reasoning += text
                return {"reasoning_content": text}
            case CallStart(name):
                call: dict[str, Any] = {
                    "id": self._answers.dialect.new_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                choice.calls.append(call)
                function = {"name": name, "arguments": ""}
                return {"tool_calls": [{"index": len(choice.calls) - 1, **call, "function": function}]}
            case CallArguments(text):
                choice.calls[-1]["function"]["arguments"] += text
                return {"tool_calls": [{"index": len(choice.calls) - 1, "function": {"arguments": text}}]}

    def _describe_logprobs(self, piece: Piece) -> list[dict[str, Any]]:
        if not self._has_logprobs:
            return []
        return describe_logprobs(self._answers.lease.version.tokenizer, piece.event.logprobs)
