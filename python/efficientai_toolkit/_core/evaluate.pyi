"""
Scoring texts.
"""

from .models import Model, Tokenizer
from _typeshed import SupportsGetItem
from os import PathLike
from typing import SupportsIndex

__all__ = ["divergence", "score_rows", "score_tokens"]

def divergence(model: Model, reference: Model, rows: SupportsGetItem[int, SupportsGetItem[int, SupportsIndex]], accuracy: str | None = None, reference_accuracy: str | None = None) -> str:
    """
    Divergence of ``model`` from ``reference`` on ``rows`` of token ids, as JSON; both may be the same model.

    ``accuracy`` and ``reference_accuracy`` are those of products with quantized weights on the CPU: ``f32``, ``bf16`` or
    ``int8``; by default that of the activations.
    """

def score_rows(model: Model, tokenizer: Tokenizer, path: str | PathLike[str], rows: SupportsGetItem[int, tuple[SupportsIndex, str]], settings: str) -> str:
    """
    Loss and token accuracy on rows of data, as JSON.

    ``rows`` are lines of ``path``, each with its number and its text, a JSON object as training reads it; ``settings`` is
    the JSON of ``batch_size``, ``max_seq_length``, ``mask_prompt`` and, optionally, ``accuracy``.
    """

def score_tokens(model: Model, rows: SupportsGetItem[int, tuple[SupportsGetItem[int, SupportsIndex], SupportsIndex]], batch_size: SupportsIndex = 8) -> list[list[tuple[float, bool]]]:
    """
    For each row of token ids and each of its tokens from ``start`` on: the natural logarithm of its
    probability after the tokens before it, and whether no other token is likelier there.

    ``rows`` are pairs of token ids and ``start``, which is at least 1; ``batch_size`` rows go through the model together.
    """
