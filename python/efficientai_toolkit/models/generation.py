"""Text generation."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, SupportsIndex, cast, overload

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit._base.display import Displayed, shorten
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError
from efficientai_toolkit.models.chat import Messages, render_messages

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
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
    presence_penalty: float = setting(
        0.0, "subtracted from the logits of tokens that were generated before, -2 to 2"
    )
    frequency_penalty: float = setting(
        0.0, "subtracted from the logits of tokens for each time that they were generated, -2 to 2"
    )
    logit_bias: dict[str, float] = setting({}, "added to the logits of token ids, -100 to 100")
    seed: int = setting(0, "random seed")
    accuracy: Literal["f32", "bf16", "int8"] | None = setting(
        None,
        "precision of the products of a quantized model on a CPU (default: the fastest that hardly changes "
        "the probabilities)",
    )
    kv_bits: int | None = setting(
        None,
        "quantize the KV cache of long contexts to 4 or 8 bits; the first and last positions stay exact "
        "(default: exact)",
    )
    kv_group_size: int = setting(64, "group size of the quantized KV cache: 32, 64 or 128")
    stop: list[str] = setting([], "stop sequence; repeat the option for more")
    ignore_eos: bool = setting(False, "go on after an end-of-sequence token")
    skip_special_tokens: bool = setting(True, "leave special tokens out of the text")
    logprobs: int | None = setting(
        None, "report the log-probability of each new token, and of this many most likely ones, at most 20"
    )
    prompt_logprobs: int | None = setting(None, "as logprobs, for the tokens of the prompt")
    response_format: dict[str, Any] | None = setting(
        None, "format that the text must have: json_schema, regex or grammar (Lark), and its definition"
    )

    def check(self) -> None:
        """Let the engine check the values."""
        # The defaults are valid, and loading the engine takes time.
        if any(self._displayed()):
            from efficientai_toolkit._engine.core import core

            core.generate.check(self.to_json())


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Generation(Displayed):
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
    logprobs: list[dict[str, Any]]
    """Of each new token, where ``logprobs`` asks for them: ``id``, ``logprob`` and ``top``, pairs of id and
    log-probability."""
    prompt_logprobs: list[dict[str, Any]]
    """Of each token of the prompt but the first, where ``prompt_logprobs`` asks for them."""


Prompt = str | Sequence[int] | Messages
"""A text, token ids, or the messages of a conversation."""

Adapter = str | Mapping[str, float]
"""The name of a loaded adapter, or weights by name; an empty mapping is the model alone."""


@overload
def generate(
    model: "Model",
    tokenizer: "Tokenizer",
    prompt: Prompt,
    *,
    config: GenerateConfig | None = None,
    stream: Callable[[str], object] | None = None,
    draft_model: "Model | None" = None,
    adapter: Adapter | None = None,
    **overrides: Any,
) -> str: ...


@overload
def generate(
    model: "Model",
    tokenizer: "Tokenizer",
    prompt: list[str] | list[list[int]] | list[Messages],
    *,
    config: GenerateConfig | None = None,
    draft_model: "Model | None" = None,
    adapter: Adapter | Sequence[Adapter | None] | None = None,
    **overrides: Any,
) -> list[str]: ...


def generate(
    model: "Model",
    tokenizer: "Tokenizer",
    prompt: Prompt | Sequence[Prompt],
    *,
    config: GenerateConfig | None = None,
    stream: Callable[[str], object] | None = None,
    draft_model: "Model | None" = None,
    adapter: Adapter | Sequence[Adapter | None] | None = None,
    **overrides: Any,
) -> str | list[str]:
    """Generate a continuation of a text or the answer in a conversation.

    Parameters
    ----------
    model, tokenizer
        From :func:`efficientai_toolkit.load`.
    prompt
        Text or token ids, passed to the model unchanged, or messages, formatted with the chat template; or a
        list of such prompts, of which several are continued at once (continuous batching).
    config
        Sampling parameters; greedy decoding by default.
    stream
        Called with each piece of text as soon as it is final; for a single prompt.
    draft_model
        A smaller model with the same vocabulary, whose proposals the model checks several at a time
        (speculative decoding): the text is that of ``model`` alone.
    adapter
        Name of an adapter that was loaded with ``model.load_adapter``, or weights by name, in place of what
        ``model.set_adapter`` has put onto the model; for a list of prompts, also a list with one for each, of
        which ``None`` is what is on the model. Prompts with different adapters are continued at once.
    **overrides
        Fields of :class:`GenerateConfig` that override ``config``.

    Returns
    -------
    str or list of str
        Generated text without the prompt; for a list of prompts the text of each.

    Raises
    ------
    ConfigError
        If a setting is unknown or invalid, the prompt is of another kind, or no adapter has this name.
    ModelLoadingError
        If messages are given but the tokenizer has no chat template.
    """
    settings = (config or GenerateConfig()).with_values(overrides)
    prompts = _split(prompt)
    if prompts is not None and stream is not None:
        message = "`stream` is for a single prompt: call generate for each"
        raise ConfigError(message)
    if prompts is None and draft_model is None and adapter is None:
        return generate_with_statistics(model, tokenizer, cast("Prompt", prompt), settings, stream).text
    requests = Requests(model, tokenizer, settings, draft_model)
    chosen = [cast("Prompt", prompt)] if prompts is None else prompts
    adapters = _adapters(adapter, len(chosen), is_single=prompts is None)
    numbers = {
        requests.add(each, adapter=own): index
        for index, (each, own) in enumerate(zip(chosen, adapters, strict=True))
    }
    texts = [""] * len(chosen)
    for event in requests.events():
        if stream is not None and event["text"]:
            stream(event["text"])
        texts[numbers[event["id"]]] += event["text"]
    return texts[0] if prompts is None else texts


def stream(
    model: "Model",
    tokenizer: "Tokenizer",
    prompt: Prompt,
    *,
    config: GenerateConfig | None = None,
    draft_model: "Model | None" = None,
    adapter: Adapter | None = None,
    **overrides: Any,
) -> Iterator[str]:
    """Iterate over the text that :func:`generate` returns, piece by piece as soon as each is final.

    Parameters and errors are those of :func:`generate`, for a single prompt. Nothing is computed before
    the first piece is asked for, nor after the iterator is closed.
    """
    settings = (config or GenerateConfig()).with_values(overrides)
    if _split(prompt) is not None:
        message = "`prompt` is a list of prompts: call stream for each"
        raise ConfigError(message)
    requests = Requests(model, tokenizer, settings, draft_model)
    requests.add(prompt, adapter=adapter)
    for event in requests.events():
        if event["text"]:
            yield event["text"]


class Requests:
    """Prompts that are continued together."""

    def __init__(
        self,
        model: "Model",
        tokenizer: "Tokenizer",
        config: GenerateConfig,
        draft_model: "Model | None" = None,
    ) -> None:
        from efficientai_toolkit._engine.core import core

        self._tokenizer = tokenizer
        self._config = config.to_json()
        self._engine = core.generate.Engine(model, tokenizer, accuracy=config.accuracy, draft=draft_model)

    def add(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        adapter: Adapter | None = None,
    ) -> int:
        """Add a prompt and return its number, which events carry."""
        given = _ids_or_text(prompt)
        text = render_messages(self._tokenizer, cast("Messages", prompt), tools) if given is None else given
        chosen: str | dict[str, SupportsFloat | SupportsIndex] | None = (
            adapter if adapter is None or isinstance(adapter, str) else dict(adapter)
        )
        return self._engine.add(text, self._config, add_special_tokens=given is not None, adapter=chosen)

    def events(self) -> Iterator[dict[str, Any]]:
        """Compute until all prompts are continued, and yield what is new.

        Raises
        ------
        ModelLoadingError
            If one of them fails.
        """
        while self._engine.running + self._engine.waiting:
            for event in json.loads(self._engine.step()):
                if event["error"] is not None:
                    raise ModelLoadingError(event["error"])
                yield event


def _adapters(
    adapter: Adapter | Sequence[Adapter | None] | None, count: int, *, is_single: bool
) -> Sequence[Adapter | None]:
    """Return the adapter of each of ``count`` prompts."""
    if adapter is None or isinstance(adapter, (str, Mapping)):
        return [adapter] * count
    if is_single:
        message = "`adapter` is a list, but there is a single prompt"
        raise ConfigError(message)
    if len(adapter) != count:
        message = f"`adapter` has {len(adapter)} entries for {count} prompts"
        raise ConfigError(message)
    return adapter


def _split(prompt: object) -> list[Prompt] | None:
    """Return the prompts of a list; ``None`` for a single prompt.

    Raises
    ------
    ConfigError
        If ``prompt`` is neither.
    """
    if isinstance(prompt, str):
        return None
    to_list = getattr(prompt, "tolist", None)
    items: object = to_list() if to_list is not None else prompt
    if isinstance(items, Sequence) and not isinstance(items, bytes):
        parts = cast("Sequence[object]", items)
        if all(isinstance(part, Integral) for part in parts) or all(
            isinstance(part, Mapping) for part in parts
        ):
            return None
        if all(isinstance(part, str) or _split(part) is None for part in parts):
            return cast("list[Prompt]", list(parts))
    message = f"a prompt is a text, token ids, messages, or a list of these, not {shorten(prompt)}"
    raise ConfigError(message)


def generate_with_statistics(
    model: "Model",
    tokenizer: "Tokenizer",
    prompt: Prompt,
    config: GenerateConfig,
    stream: Callable[[str], object] | None = None,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Generation:
    """Generate text and return it with token counts, throughput and peak memory.

    Parameters are as in :func:`generate`; ``tools`` are JSON schemas for the chat template.
    """
    from efficientai_toolkit._engine.core import core

    given = _ids_or_text(prompt)
    # A rendered conversation holds its special tokens already.
    text = render_messages(tokenizer, cast("Messages", prompt), tools) if given is None else given
    report = core.generate.generate(
        model, tokenizer, text, config.to_json(), stream, add_special_tokens=given is not None
    )
    return Generation(**json.loads(report))


def _ids_or_text(prompt: Prompt) -> str | list[int] | None:
    """Return a text or token ids as the engine takes them; ``None`` for messages."""
    if isinstance(prompt, str):
        return prompt
    if any(isinstance(part, Mapping) for part in prompt):
        return None
    return [int(cast("int", part)) for part in prompt]
