"""What the bodies of several APIs share."""

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from efficientai_toolkit.server.errors import ApiError

MAX_CHOICES = 16
"""Largest ``n``."""

MAX_STOPS = 16

_LEAST_TEMPERATURE = 1e-3

Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
ModelName = Annotated[str, Field(max_length=500)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None
Schema = dict[str, Any]


class Body(BaseModel):
    """A request. Unknown fields are ignored, for clients gain new ones every month; types are strict."""

    model_config = ConfigDict(strict=True)


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None


class JsonSchema(Body):
    """A schema with its name."""

    name: str | None = None
    schema_: Schema | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Body):
    """What the answer has to be; regular expressions are an addition of ours."""

    type: Literal["text", "json_object", "json_schema", "grammar", "regex"]
    json_schema: JsonSchema | None = None
    grammar: str | None = None
    """A grammar in the syntax of Lark."""
    regex: str | None = None

    def constraint(self) -> dict[str, Any] | None:
        """Return the engine's setting.

        Raises
        ------
        ApiError
            If there is nothing of the kind that ``type`` names.
        """
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"json_schema": {"type": "object"}}
        given = {
            "json_schema": self.json_schema and self.json_schema.schema_,
            "grammar": self.grammar,
            "regex": self.regex,
        }
        if given[self.type] is None:
            message = f"`response_format` is {self.type}, but its `{self.type}` is missing"
            raise ApiError(message, param="response_format")
        return {self.type: given[self.type]}


class Sampling(Body):
    """How tokens are chosen: OpenAI's fields, and those that other servers add."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    min_p: Probability | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stop: Stop = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None

    def settings(self) -> dict[str, Any]:
        """Return the engine's settings; OpenAI samples at temperature 1 unless told."""
        chosen: dict[str, Any] = {
            "temperature": read_temperature(self.temperature),
            "top_p": self.top_p,
            # Other servers write -1 for all.
            "top_k": None if self.top_k == -1 else self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty or None,
            "frequency_penalty": self.frequency_penalty or None,
            "logit_bias": self.logit_bias or None,
            "stop": stop_strings(self.stop),
            "ignore_eos": self.ignore_eos or None,
            "seed": draw_seed(self.seed),
            "response_format": self.response_format and self.response_format.constraint(),
        }
        return {name: value for name, value in chosen.items() if value is not None}


def read_temperature(temperature: float | None) -> float:
    """Return the temperature: OpenAI's where none is given, 0 for what would divide logits to infinity."""
    if temperature is None:
        return 1.0
    return temperature if temperature >= _LEAST_TEMPERATURE else 0.0


def stop_strings(stop: Stop) -> list[str]:
    """Return stop strings as a list, without empty ones."""
    given = [stop] if isinstance(stop, str) else stop or []
    return [text for text in given if text]


def draw_seed(seed: int | None) -> int:
    """Return the seed that was given, or a random one."""
    return secrets.randbits(48) if seed is None else seed % 2**64


def new_id(prefix: str) -> str:
    """Return an identifier of a response."""
    return f"{prefix}{secrets.token_hex(12)}"
