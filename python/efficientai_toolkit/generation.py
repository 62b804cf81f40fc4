"""Loading models and generating text."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.config import Config, setting

if TYPE_CHECKING:
    from efficientai_toolkit._core import Model, Tokenizer

Messages = Sequence[Mapping[str, Any]]
"""A conversation: ``[{"role": "user", "content": "…"}, …]``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig(Config):
    """How the next token is chosen, and when to stop."""

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
    """One answer and what it took."""

    text: str
    prompt_tokens: int
    generated_tokens: int
    finish_reason: str
    """``stop`` (end of text or a stop text) or ``length``."""
    prompt_tokens_per_second: float
    tokens_per_second: float
    accuracy: str | None
    """How exactly packed weights were used; ``None`` if the model is not quantized, and on a GPU."""
    peak_memory_bytes: int


def load(
    path_or_id: str | os.PathLike[str] | None = None,
    adapter_path: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    *,
    bits: int | None = None,
    group_size: int = 64,
    show_progress: bool = True,
) -> "tuple[Model, Tokenizer]":
    """Load a model and its tokenizer.

    Parameters
    ----------
    path_or_id
        A folder in Hugging Face format or a hub id ``org/name[@revision]``; ``None`` loads
        the small model inside this package.
    adapter_path
        A folder or hub id with LoRA adapters to put on the model, in mlx-lm's or PEFT's format. More can be
        added with ``model.load_adapter(path, name)`` and exchanged or blended with ``model.set_adapter``.
    dtype
        ``float32``, ``float16`` or ``bfloat16``; ``None`` takes float32 on a CPU and the
        checkpoint's own on a GPU.
    bits
        Quantize matrices to 2, 3, 4, 5, 6 or 8 bits per weight; ``None`` leaves them as they are on disk.
        A checkpoint that MLX quantized stays quantized.
    group_size
        Weights that share a scale: 32, 64 or 128.
    show_progress
        Show a bar while a hub id is downloaded.

    Returns
    -------
    model, tokenizer
        ``model(ids)`` takes an int array ``[batch, time]`` and gives float32 logits
        ``[batch, time, vocab]``.

    Raises
    ------
    ConfigError
        There is no such format.
    ModelLoadingError
        A file is missing, broken or of an unknown kind.
    """
    from efficientai_toolkit import hub
    from efficientai_toolkit._engine.core import core

    folder = MODEL if path_or_id is None else hub.resolve(path_or_id, show_progress=show_progress)
    adapter = None if adapter_path is None else hub.resolve(adapter_path, show_progress=show_progress)
    return core.load(str(folder), None if adapter is None else str(adapter), dtype, bits, group_size)


def generate(
    model: "Model",
    tokenizer: "Tokenizer",
    prompt: str | Messages,
    *,
    config: GenerateConfig | None = None,
    stream: Callable[[str], object] | None = None,
    **overrides: Any,
) -> str:
    """Continue a text, or answer a conversation.

    Parameters
    ----------
    model, tokenizer
        From :func:`load`.
    prompt
        A text goes to the model as it is; messages go through the chat template.
    config
        How to sample; greedy by default.
    stream
        Receives each piece of text as soon as it is final.
    **overrides
        Fields of :class:`GenerateConfig` that win over ``config``.

    Returns
    -------
    str
        The new text, without the prompt.

    Raises
    ------
    ConfigError
        An override is unknown or a value impossible.
    ModelLoadingError
        Messages were given, but the tokenizer has no chat template.
    """
    settings = (config or GenerateConfig()).with_values(overrides)
    return generation(model, tokenizer, prompt, settings, stream).text


def generation(
    model: "Model",
    tokenizer: "Tokenizer",
    prompt: str | Messages,
    config: GenerateConfig,
    stream: Callable[[str], object] | None = None,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Generation:
    """:func:`generate` with token counts, speed and memory beside the text.

    ``tools`` are JSON schemas for the chat template, where the prompt is messages.
    """
    from efficientai_toolkit._engine.core import core

    is_text = isinstance(prompt, str)
    text = prompt if isinstance(prompt, str) else render(tokenizer, prompt, tools)
    # A rendered conversation holds its special tokens already.
    report = core.generate(model, tokenizer, text, config.to_json(), stream, add_special_tokens=is_text)
    return Generation(**json.loads(report))


def render(
    tokenizer: "Tokenizer", messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """Write a conversation as the model expects it, up to where its answer begins."""
    described = None if tools is None else json.dumps(list(tools))
    return tokenizer.apply_chat_template(json.dumps(list(messages)), described, add_generation_prompt=True)


def as_question(tokenizer: "Tokenizer", prompt: str, *, system: str | None = None) -> str | Messages:
    """What a user types: one message where the model has a chat template, else plain text."""
    if not tokenizer.has_chat_template:
        return prompt if system is None else f"{system}\n\n{prompt}"
    opening = [] if system is None else [{"role": "system", "content": system}]
    return [*opening, {"role": "user", "content": prompt}]
