"""Bodies of the toolkit's own routes: ``/generate``, ``/generate/batch``, ``/tokenize``, ``/admin``."""

from typing import Annotated, Any

from pydantic import Field

from efficientai_toolkit.server.protocol.chat import FunctionTool, Message
from efficientai_toolkit.server.protocol.common import Body, ModelName, Sampling, Token, read_temperature
from efficientai_toolkit.server.protocol.completions import MAX_PROMPTS


class GenerateBase(Sampling):
    """Settings of a generation; greedy unless told, as in Python."""

    model: ModelName | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 256

    def settings(self) -> dict[str, Any]:
        """Return the engine's settings."""
        return {**super().settings(), "temperature": read_temperature(self.temperature or 0.0)}


class GenerateRequest(GenerateBase):
    """A text to continue."""

    prompt: str | Annotated[list[Token], Field(min_length=1)]
    stream: bool | None = None


class BatchRequest(GenerateBase):
    """Texts to continue."""

    prompts: Annotated[
        list[str | Annotated[list[Token], Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)
    ]


class TokenizeRequest(Body):
    """A text or a conversation to split."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[FunctionTool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Body):
    """Tokens to join."""

    model: ModelName | None = None
    tokens: list[Token]
    skip_special_tokens: bool | None = None


class DeployRequest(Body):
    """The new version of a model."""

    name: ModelName
    path: Annotated[str, Field(min_length=1, max_length=4096)]


class NameRequest(Body):
    """A served name."""

    name: ModelName


class AdapterRequest(Body):
    """An adapter to load, named ``MODEL:NAME``."""

    name: ModelName
    path: Annotated[str, Field(min_length=1, max_length=4096)]
