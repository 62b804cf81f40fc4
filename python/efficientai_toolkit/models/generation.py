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

    max_tokens: int = setting(256, "maximum number of new tokens")
    temperature: float = setting(0.0, "sampling temperature; 0: greedy decoding")
    top_p: float = setting(
        1.0, "nucleus sampling: keep the most likely tokens up to this cumulative probability; 1: all"
    )
    top_k: int = setting(0, "sample from the k most likely tokens; 0: all")
    min_p: float = setting(0.0, "minimum probability relative to the most likely token; 0: none")
    repetition_penalty: float = setting(1.0, "penalty of repeated tokens; 1: off")
    repetition_context: int = setting(64, "number of last tokens that the repetition penalty considers")
    seed: int = setting(0, "random seed")
    accuracy: Literal["f32", "bf16", "int8"] | None = setting(
        None,
        "precision of the products of a quantized model on a CPU (default: the fastest that hardly changes "
        "the probabilities)",
    )
    stop: list[str] = setting([], "stop sequence; repeat the option for more")


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
