"""``/v1/responses``. Nothing is stored: every request has the whole conversation."""

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.server.conversation import Answers, Conversation, answer, named
from efficientai_toolkit.server.dialects.base import CallArguments, CallStart, Delta, Reasoning, Text
from efficientai_toolkit.server.errors import ApiError, JsonResponse
from efficientai_toolkit.server.generation import Service, while_connected
from efficientai_toolkit.server.protocol.common import (
    JsonSchema,
    ResponseFormat,
    draw_seed,
    new_id,
    read_temperature,
)
from efficientai_toolkit.server.protocol.responses import InputItem, NamedTool, ResponsesRequest, TextFormat
from efficientai_toolkit.server.routes.chat import read_content
from efficientai_toolkit.server.streams import STREAMED, EventStream, encode_event

Event = tuple[str, dict[str, Any]]


def create_router(service: Service) -> APIRouter:
    """Create the route."""
    router = APIRouter()

    @router.post("/v1/responses", responses=STREAMED)
    async def create_response(body: ResponsesRequest, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Answer in a conversation."""
        answers = await while_connected(request, answer(service, body.model, _read(body)))
        reply = _Reply(answers, body)
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

    return router


def _read(body: ResponsesRequest) -> Conversation:
    for name in ("previous_response_id", "conversation", "background"):
        if getattr(body, name):
            message = f"`{name}` is not supported: this server stores nothing, so send the whole conversation"
            raise ApiError(message, param=name)
    settings: dict[str, Any] = {
        "temperature": read_temperature(body.temperature),
        "seed": draw_seed(None),
    }
    if body.top_p is not None:
        settings["top_p"] = body.top_p
    if constraint := _read_format(body.text.format if body.text is not None else None):
        settings["response_format"] = constraint
    choice = body.tool_choice or "auto"
    effort = body.reasoning.effort if body.reasoning is not None else None
    return Conversation(
        messages=_read_messages(body),
        settings=settings,
        max_tokens=body.max_output_tokens,
        tools=[
            {"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"type"})}
            for tool in body.tools or []
        ],
        choice=named(choice.name) if isinstance(choice, NamedTool) else choice,
        is_parallel=body.parallel_tool_calls is not False,
        template_options={} if effort is None else {"reasoning_effort": effort},
    )


def _read_messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for item in body.input:
        _append(messages, item)
    return messages


def _append(messages: list[dict[str, Any]], item: InputItem) -> None:
    match item.type:
        case "message":
            messages.append({"role": item.role or "user", "content": read_content(item.content)})
        case "function_call":
            if not item.name:
                message = "a function_call has no `name`"
                raise ApiError(message, param="input")
            # Calls belong to what the assistant said before them.
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            function = {"name": item.name, "arguments": item.arguments or "{}"}
            call = {"id": item.call_id or "", "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
        case "function_call_output":
            output = {
                "role": "tool",
                "tool_call_id": item.call_id or "",
                "content": read_content(item.output),
            }
            messages.append(output)
        case "reasoning":
            # What was thought before is not part of the next prompt.
            pass


def _read_format(wanted: TextFormat | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    return ResponseFormat(type=wanted.type, json_schema=JsonSchema(schema=wanted.schema_)).constraint()


class _Reply:
    """Turns pieces into output items, and into the events that tell of them."""

    def __init__(self, answers: Answers, body: ResponsesRequest) -> None:
        self._answers = answers
        self._output: list[dict[str, Any]] = []
        self._sequence = 0
        self._response: dict[str, Any] = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": answers.lease.name,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": {"type": "text"}}
            if body.text is None
            else body.text.model_dump(by_alias=True, exclude_none=True),
            "tool_choice": body.tool_choice.model_dump()
            if isinstance(body.tool_choice, NamedTool)
            else body.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in body.tools or []],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    async def collect(self) -> dict[str, Any]:
        """Return the whole response."""
        async for _ in self._events():
            pass
        return self._response

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the events of the response."""
        async for kind, values in self._events():
            yield encode_event({"type": kind, "sequence_number": self._sequence, **values}, kind)
            self._sequence += 1

    async def _events(self) -> AsyncIterator[Event]:
        yield "response.created", {"response": self._response}
        yield "response.in_progress", {"response": self._response}
        reason: str | None = None
        async for piece in self._answers:
            for delta in piece.deltas:
                for event in self._apply(delta):
                    yield event
            reason = piece.event.finish_reason
        is_whole = reason != "length"
        if not self._output:
            for event in self._open(_new_message()):
                yield event
        for event in self._close(is_whole=is_whole):
            yield event
        usage = self._answers.generation.usage
        self._response |= {
            "status": "completed" if is_whole else "incomplete",
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "output": self._output,
            "usage": {
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.generated,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.generated,
            },
        }
        yield f"response.{self._response['status']}", {"response": self._response}

    def _apply(self, delta: Delta) -> list[Event]:
        match delta:
            case Text(text):
                events = self._enter("message", _new_message)
                self._output[-1]["content"][0]["text"] += text
                return [
                    *events,
                    ("response.output_text.delta", {**self._place(part=True), "delta": text, "logprobs": []}),
                ]
            case Reasoning(text):
                events = self._enter("reasoning", _new_reasoning)
                self._output[-1]["content"][0]["text"] += text
                return [*events, ("response.reasoning_text.delta", {**self._place(part=True), "delta": text})]
            case CallStart(name):
                return [*self._close(), *self._open(_new_call(name, self._answers.dialect.new_id()))]
            case CallArguments(text):
                self._output[-1]["arguments"] += text
                return [("response.function_call_arguments.delta", {**self._place(), "delta": text})]

    def _enter(self, kind: str, create: Any) -> list[Event]:
        if self._output and self._output[-1]["type"] == kind and self._output[-1]["status"] == "in_progress":
            return []
        return [*self._close(), *self._open(create())]

    def _open(self, item: dict[str, Any]) -> list[Event]:
        self._output.append(item)
        shown: dict[str, Any] = {**item, "content": []} if "content" in item else dict(item)
        events: list[Event] = [
            ("response.output_item.added", {"output_index": len(self._output) - 1, "item": shown}),
        ]
        if item["type"] == "message":
            part = dict(item["content"][0])
            events.append(("response.content_part.added", {**self._place(part=True), "part": part}))
        return events

    def _close(self, *, is_whole: bool = True) -> list[Event]:
        if not self._output or self._output[-1]["status"] != "in_progress":
            return []
        item = self._output[-1]
        item["status"] = "completed" if is_whole else "incomplete"
        events: list[Event] = []
        match item["type"]:
            case "message":
                part = item["content"][0]
                place = self._place(part=True)
                events += [
                    ("response.output_text.done", {**place, "text": part["text"], "logprobs": []}),
                    ("response.content_part.done", {**place, "part": part}),
                ]
            case "reasoning":
                text = item["content"][0]["text"]
                events.append(("response.reasoning_text.done", {**self._place(part=True), "text": text}))
            case _:
                values = {"name": item["name"], "arguments": item["arguments"]}
                events.append(("response.function_call_arguments.done", {**self._place(), **values}))
        return [*events, ("response.output_item.done", {"output_index": len(self._output) - 1, "item": item})]

    def _place(self, *, part: bool = False) -> dict[str, Any]:
        place = {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}
        return {**place, "content_index": 0} if part else place


def _new_message() -> dict[str, Any]:
    part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return {
        "id": new_id("msg_"),
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [part],
    }


def _new_reasoning() -> dict[str, Any]:
    part = {"type": "reasoning_text", "text": ""}
    return {
        "id": new_id("rs_"),
        "type": "reasoning",
        "status": "in_progress",
        "summary": [],
        "content": [part],
    }


def _new_call(name: str, identifier: str) -> dict[str, Any]:
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "status": "in_progress",
        "call_id": identifier,
        "name": name,
        "arguments": "",
    }
