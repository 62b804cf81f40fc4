"""Text generation."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.models.chat import Messages, render_messages

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig(Config):
    """Sampling parameters and stopping criteria."""

    max_tokens: int = setting(256, "stop after this many new tokens")
    temperature: float = setting(0.0, "randomness; 0 always takes the likeliest token")
    top_p: float = setting(
        1.0, "sample from the likeliest tokens that together reach this probability; 1: all"
    )
    top_k: int = setting(0, "sample from this many likeliest tokens; 0: all")
    min_p: float = setting(0.0, "drop tokens less likely than this share of the likeliest one; 0: none")
    repetition_penalty: float = setting(1.0, "make tokens seen before less likely; 1: off")
    repetition_context: int = setting(64, "how many last tokens the repetition penalty looks at")
    seed: int = setting(0, "seed of the sampling")
    accuracy: Literal["f32", "bf16", "int8"] | None = setting(
        None,
        "how exactly a quantized model computes on a CPU (default: the fastest way that hardly changes the "
        "probabilities)",
    )
    stop: list[str] = setting([], "stop before this text; give the option again for more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """Generated text with statistics."""

    text: str
    prompt_tokens: int
    generated_tokens: int
    finish_reason: str
    """``stop`` (end-of-text token or stop sequence) or ``length``."""
    prompt_tokens_per_second: float
    tokens_per_second: float
    accuracy: str | None
    """Precision of quantized products; ``None`` without quantization and on a GPU."""
    peak_memory_bytes: int


def generate(
    model: "Model",
    tokenizer: "Tokenizer",
    prompt: str | Messages,
    *,
    config: GenerateConfig | None = None,
    stream: Callable[[str], object] | None = None,
    **overrides: Any,
) -> str:
    """Generate a continuation of a text or the answer in a conversation.

    Parameters
    ----------
    model, tokenizer
        From :func:`efficientai_toolkit.load`.
    prompt
        Text, passed to the model unchanged, or messages, formatted with the chat template.
    config
        Sampling parameters; greedy decoding by default.
    stream
        Called with each piece of text as soon as it is final.
    **overrides
        Fields of :class:`GenerateConfig` that override ``config``.

    Returns
    -------
    str
        Generated text without the prompt.

    Raises
    ------
    ConfigError
        If a setting is unknown or invalid.
    ModelLoadingError
        If messages are given but the tokenizer has no chat template.
    """
    settings = (config or GenerateConfig()).with_values(overrides)
    return generate_with_statistics(model, tokenizer, prompt, settings, stream).text


def generate_with_statistics(
    model: "Model",
    tokenizer: "Tokenizer",
    prompt: str | Messages,
    config: GenerateConfig,
    stream: Callable[[str], object] | None = None,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Generation:
    """Generate text and return it with token counts, throughput and peak memory.

    Parameters are as in :func:`generate`; ``tools`` are JSON schemas for the chat template.
    """
    from efficientai_toolkit._engine.core import core

    is_text = isinstance(prompt, str)
    text = prompt if isinstance(prompt, str) else render_messages(tokenizer, prompt, tools)
    # A rendered conversation holds its special tokens already.
    report = core.generate.generate(
        model, tokenizer, text, config.to_json(), stream, add_special_tokens=is_text
    )
    return Generation(**json.loads(report))
