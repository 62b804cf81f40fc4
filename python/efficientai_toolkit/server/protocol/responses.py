"""Bodies of ``/v1/responses``.

https://platform.openai.com/docs/api-reference/responses/create
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from efficientai_toolkit.server.protocol.chat import Content
from efficientai_toolkit.server.protocol.common import Body, ModelName, Schema


class InputItem(Body):
    """Something that was said or done; the fields depend on ``type``."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    id: str | None = None
    status: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None


class ResponseTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class NamedTool(Body):
    """The tool that has to be called."""

    type: Literal["function"]
    name: str


class TextFormat(Body):
    """What the answer has to be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema_: Annotated[Schema | bool | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextOptions(Body):
    """Options of the answer."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(Body):
    """Options of the reasoning."""

    effort: str | None = None
    summary: str | None = None


class ResponsesRequest(Body):
    """A conversation to go on with."""

    model: ModelName | None = None
    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    metadata: dict[str, Any] | None = None
