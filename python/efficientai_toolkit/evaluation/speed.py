"""Speed and size of a model."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from efficientai_toolkit.evaluation.text import read_sequences
from efficientai_toolkit.models.generation import GenerateConfig, generate_with_statistics
from efficientai_toolkit.models.loading import load


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedSettings:
    """How speed is measured."""

    data: str | None
    """Text of the prompt, as :func:`~efficientai_toolkit.evaluation.text.read_sequences` takes it."""
    prompt_tokens: int
    generated_tokens: int
    repeats: int
    """Generations, of which the median counts."""
    accuracy: Any = None
    """As in ``GenerateConfig``."""
    dtype: str | None = None
    """As in :func:`efficientai_toolkit.load`."""


def measure_speed(model_path: str | Path, settings: SpeedSettings) -> dict[str, float]:
    """Load a model and continue a prompt in this process.

    Returns
    -------
    dict
        Seconds to ``load``, tokens per second of ``prefill`` and ``decode``, and ``size`` of the weights in
        bytes.
    """
    start = perf_counter()
    loaded, tokenizer = load(model_path, dtype=settings.dtype, show_progress=False)
    seconds = perf_counter() - start
    (prompt,) = read_sequences(tokenizer, settings.data, count=1, length=settings.prompt_tokens)
    # As many tokens from every model, so that their speeds compare.
    config = GenerateConfig(max_tokens=settings.generated_tokens, accuracy=settings.accuracy, ignore_eos=True)
    # The first one compiles kernels and fills caches.
    generate_with_statistics(loaded, tokenizer, prompt, config.with_values({"max_tokens": 2}))
    runs = [generate_with_statistics(loaded, tokenizer, prompt, config) for _ in range(settings.repeats)]
    return {
        "load": seconds,
        "prefill": median(run.prompt_tokens_per_second for run in runs),
        "decode": median(run.tokens_per_second for run in runs),
        "size": sum(file.stat().st_size for file in loaded.path.glob("*.safetensors")),
    }
