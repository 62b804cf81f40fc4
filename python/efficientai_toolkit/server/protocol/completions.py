"""Bodies of ``/v1/completions`` and ``/v1/embeddings``.

https://platform.openai.com/docs/api-reference/completions
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from efficientai_toolkit.server.protocol.common import (
    MAX_CHOICES,
    Body,
    ModelName,
    Sampling,
    StreamOptions,
    Token,
)

MAX_PROMPTS = 128
"""Most prompts of a request."""

MAX_TOP = 20

Prompts = (
    str
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    | Annotated[list[Token], Field(min_length=1)]
    | Annotated[
        list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)
    ]
)


class CompletionRequest(Sampling):
    """Texts to continue."""

    model: ModelName | None = None
    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None


class EmbeddingRequest(Body):
    """Texts to turn into vectors."""

    model: ModelName | None = None
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    pooling: Literal["mean", "last"] | None = None
    """Which hidden states make the vector: an addition of ours."""


def split_prompts(prompts: Prompts) -> list[str | list[int]]:
    """Return each prompt of a request."""
    if isinstance(prompts, str):
        return [prompts]
    given: Any = prompts
    return [given] if isinstance(prompts[0], int) else given
