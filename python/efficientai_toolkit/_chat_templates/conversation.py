"""The variables that transformers gives to a chat template."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys for the reasoning of a message, in the order of precedence."""

Message = dict[str, Any]


def normalize(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Copy messages without keys that are null, with the reasoning under the keys that templates read."""
    return [_normalize(message) for message in messages]


def _normalize(message: Mapping[str, Any]) -> Message:
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[key] for key in _REASONING if key in given), None)
    if reasoning is None:
        return given
    return {"thinking": reasoning, **given, "reasoning_content": reasoning}


def parse_arguments(messages: Sequence[Message]) -> list[Message] | None:
    """Copy messages with the arguments of tool calls, which APIs write as JSON strings, as objects.

    Returns ``None`` if there are no such arguments.
    """
    parsed = [_parse_arguments(message) for message in messages]
    return None if parsed == list(messages) else parsed


def _parse_arguments(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_parse_call(call) for call in cast("list[object]", calls)]}


def _parse_call(call: object) -> object:
    if not isinstance(call, dict):
        return call
    call = cast("dict[str, object]", call)
    if isinstance(call.get("function"), dict):
        return {**call, "function": _parse_call(call["function"])}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments)
        except ValueError:
            return call
        if isinstance(value, dict):
            return {**call, "arguments": cast("dict[str, object]", value)}
    return call
