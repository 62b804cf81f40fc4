"""Bodies of ``/v1/chat/completions``.

https://platform.openai.com/docs/api-reference/chat/create
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from efficientai_toolkit.server.protocol.common import (
    MAX_CHOICES,
    Body,
    ModelName,
    Sampling,
    Schema,
    StreamOptions,
)

MAX_TOP = 20
"""Most alternatives of a token."""


class ContentPart(Body):
    """A part of a message; only text is understood."""

    type: str
    text: str | None = None
    refusal: str | None = None


Content = str | list[ContentPart]


class FunctionCall(Body):
    """The function that an assistant called."""

    name: str
    arguments: str = "{}"


class ToolCall(Body):
    """A call of an assistant."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Function(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class FunctionTool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: str


class NamedTool(Body):
    """The tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedNames(Body):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedTools(Body):
    """The tools that may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedNames


class ChatRequest(Sampling):
    """A conversation to answer."""

    model: ModelName | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    """Whether the last message, of the assistant, is the beginning of the answer."""
