"""Answers in conversations, whatever the API: the prompt, what may be called, what is said."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from efficientai_toolkit.server.backend import Event
from efficientai_toolkit.server.dialects.base import (
    CallArguments,
    CallStart,
    Delta,
    Dialect,
    Forced,
    Parser,
    PlainParser,
    Tool,
)
from efficientai_toolkit.server.dialects.reasoning import ReasoningParser, ends_with_reasoning
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.generation import Generation, Service, hold
from efficientai_toolkit.server.served import Lease

ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object"}
"""Schema of a function that tells none."""

_INTERRUPTED_REASONING = {"</think>": "\n</think>\n\n", "[/THINK]": "[/THINK]"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """What an API asks for."""

    messages: list[dict[str, Any]]
    settings: dict[str, Any]
    """Those of the engine; a ``response_format`` is of the answer, unless a call is forced."""
    max_tokens: int | None = None
    n: int = 1
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """In OpenAI's form, as chat templates read them."""
    choice: str = "auto"
    """``none``, ``auto``, ``required``, or what :func:`named` returns."""
    is_parallel: bool = True
    """Whether several calls are allowed."""
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    continues: bool = False
    """Whether the last message is the beginning of the answer."""


def named(name: str) -> str:
    """Return the ``choice`` of the tool with this name, told apart by a space from the other choices."""
    return f" {name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What an event adds to a choice."""

    index: int
    deltas: list[Delta]
    event: Event

    def finish_reason(self, *, has_calls: bool) -> str | None:
        """Return OpenAI's reason."""
        return "tool_calls" if has_calls and self.event.finish_reason == "stop" else self.event.finish_reason


class Answers:
    """The choices of an answer while they are generated."""

    def __init__(
        self, generation: Generation, lease: Lease, parsers: list[Parser], prefix: str, *, limit: int
    ) -> None:
        self.generation = generation
        self.lease = lease
        self._parsers = parsers
        self._prefix = prefix
        self._limit = limit
        self._calls = [0] * len(parsers)

    @property
    def dialect(self) -> Dialect:
        """Format of the model."""
        return self.lease.version.dialect

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Iterate over what comes, split into answer, reasoning and calls."""
        begun: set[int] = set()
        async for index, event in self.generation:
            parser = self._parsers[index]
            deltas: list[Delta] = []
            if index not in begun:
                begun.add(index)
                deltas += parser.feed(self._prefix)
            deltas += parser.feed(event.text)
            if event.finish_reason is not None:
                deltas += parser.finish()
            yield Piece(index=index, deltas=self._limited(index, deltas), event=event)

    def _limited(self, index: int, deltas: list[Delta]) -> list[Delta]:
        """Leave out calls beyond the allowed number."""
        kept: list[Delta] = []
        for delta in deltas:
            self._calls[index] += isinstance(delta, CallStart)
            if self._calls[index] <= self._limit or not isinstance(delta, CallStart | CallArguments):
                kept.append(delta)
        return kept


async def answer(service: Service, model: str | None, conversation: Conversation) -> Answers:
    """Begin to answer.

    Raises
    ------
    ApiError
        Whatever is wrong with the request, before anything is sent.
    """
    lease = await service.pool.lease(model)
    return await hold(lease, lambda: begin(service, lease, conversation))


async def begin(service: Service, lease: Lease, conversation: Conversation) -> Answers:
    """Begin to answer with a model that is leased; errors as in :func:`answer`."""
    dialect = lease.version.dialect
    tools = _choose_tools(conversation)
    text = await asyncio.to_thread(render, lease, conversation)
    end = ends_with_reasoning(text)
    forced = _force(dialect, tools, conversation)
    settings = dict(conversation.settings)
    if forced is not None:
        settings.pop("response_format", None)
        if forced.schema is not None:
            settings["response_format"] = {"json_schema": forced.schema}
    prefix = "" if forced is None else forced.prefix
    if end is not None and (forced is not None or "response_format" in settings):
        # What has to be written leaves no room for reasoning.
        prefix = _INTERRUPTED_REASONING[end] + prefix
    prompt = await service.encode(lease, text + prefix, add_special_tokens=False)
    settings["max_tokens"] = service.count_room(lease, prompt, conversation.max_tokens)
    parses = bool(tools) or dialect.always_parses
    if parses and dialect.needs_special_tokens:
        settings["skip_special_tokens"] = False
    names = frozenset(tool.name for tool in tools)
    parsers: list[Parser] = [
        ReasoningParser(dialect.open(names) if parses else PlainParser(), end) for _ in range(conversation.n)
    ]
    limit = 1 if not conversation.is_parallel or conversation.choice.startswith(" ") else 1 << 30
    generation = service.start(lease, [prompt], settings, conversation.n)
    return Answers(generation, lease, parsers, prefix, limit=limit)


def _choose_tools(conversation: Conversation) -> list[Tool]:
    """Return the tools that may be called."""
    tools = [
        Tool(name=tool["function"]["name"], parameters=tool["function"].get("parameters") or ANY_ARGUMENTS)
        for tool in conversation.tools
    ]
    choice = conversation.choice
    if choice == "none":
        return []
    if choice == "required" and not tools:
        message = "`tool_choice` asks for a call, but there are no `tools`"
        raise ApiError(message, param="tool_choice")
    if choice.startswith(" ") and choice[1:] not in {tool.name for tool in tools}:
        message = f"`tool_choice` names {choice[1:][:100]!r}, which is none of the `tools`"
        raise ApiError(message, param="tool_choice")
    return tools


def _force(dialect: Dialect, tools: Sequence[Tool], conversation: Conversation) -> Forced | None:
    if conversation.choice == "required":
        return dialect.force(tools)
    if conversation.choice.startswith(" "):
        return dialect.force([tool for tool in tools if tool.name == conversation.choice[1:]])
    return None


def render(lease: Lease, conversation: Conversation, *, opens_answer: bool = True) -> str:
    """Return the text that the model continues; with ``opens_answer`` up to the beginning of an answer.

    Raises
    ------
    ApiError
        If the model has no chat template.
    ToolkitError
        If the template refuses the conversation.
    """
    tokenizer = lease.version.tokenizer
    if not tokenizer.has_chat_template:
        message = f"{lease.name} has no chat template, so that it only continues texts: use /v1/completions"
        raise ApiError(message, param="model", code="no_chat_template")
    messages = [_for_template(message, lease.version.dialect) for message in conversation.messages]
    tools = conversation.tools if conversation.tools and conversation.choice != "none" else None
    text = tokenizer.apply_chat_template(
        messages,
        tools,
        add_generation_prompt=opens_answer and not conversation.continues,
        **conversation.template_options,
    )
    if not conversation.continues:
        return text
    last = str(conversation.messages[-1].get("content") or "").rstrip()
    at = text.rfind(last)
    if not last or at < 0:
        message = "the chat template does not keep the last message as it is, so that it cannot be continued"
        raise ApiError(message, param="messages")
    return text[: at + len(last)]


def _for_template(message: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    # Only the template of gpt-oss knows the newer name of the role.
    if message["role"] == "developer" and dialect.name != "harmony":
        return {**message, "role": "system"}
    return message
