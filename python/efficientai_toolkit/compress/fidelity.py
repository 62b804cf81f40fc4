"""What a model makes of held-out text and of questions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit.evaluation.items import answer_items, read_items
from efficientai_toolkit.models.loading import load

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


def stored_dtype(path: str) -> str | None:
    """Return the data type to load a model with: its own if it is dense, that of the device if not.

    Dense models are run as they are stored, so that a model in bfloat16 has the speed and the rounding errors
    of one. Quantized ones have no type of their own that the products must have.
    """
    try:
        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "auto"
    return None if "quantization" in config or "quantization_config" in config else "auto"


def load_as_stored(path: str) -> "tuple[Model, Tokenizer]":
    """Load a model in the data type that it is measured in."""
    return load(path, dtype=stored_dtype(path), show_progress=False)


def score_losses(model: "Model", rows: Sequence[Sequence[int]]) -> list[float]:
    """Return the negative log-likelihood of each sequence, given its first token."""
    from efficientai_toolkit._engine.core import core

    scored = core.evaluate.score_tokens(model, [(list(row), 1) for row in rows])
    return [-sum(score for score, _ in row) for row in scored]


def score_answers(model: "Model", tokenizer: "Tokenizer", task: str | None, limit: int) -> list[bool]:
    """Return which questions are answered right; none without a ``task``."""
    return [] if task is None else answer_items(model, tokenizer, read_items(Path(task), limit))
