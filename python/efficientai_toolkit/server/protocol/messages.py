"""Bodies of Anthropic's ``/v1/messages``.

https://docs.anthropic.com/en/api/messages
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from efficientai_toolkit.server.protocol.common import MAX_STOPS, Body, ModelName, Schema


class Block(Body):
    """A part of a message; the fields depend on ``type``."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None


class MessageParam(Body):
    """A message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class MessageTool(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w.-]+$")]
    description: str | None = None
    input_schema: Schema
    type: Literal["custom"] | None = None


class ToolChoice(Body):
    """How tools are chosen."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    """Whether to reason."""

    type: str
    budget_tokens: int | None = None


class OutputFormat(Body):
    """What the answer has to be."""

    type: Literal["json_schema"]
    schema_: Schema = Field(alias="schema")


class OutputConfig(Body):
    """Options of the answer."""

    effort: str | None = None
    format: OutputFormat | None = None


class CountRequest(Body):
    """A conversation to measure."""

    model: ModelName | None = None
    messages: Annotated[list[MessageParam], Field(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[MessageTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest):
    """A conversation to go on with."""

    max_tokens: Annotated[int, Field(ge=1)]
    output_config: OutputConfig | None = None
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = None
    stream: bool | None = None
