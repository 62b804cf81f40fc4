"""
Generating text.
"""

from .models import Model, Tokenizer
from _typeshed import SupportsGetItem
from typing import Any, SupportsIndex

__all__ = ["check", "defaults", "generate"]

def check(config: str) -> None:
    """
    Checks the value of every setting of ``config``, the JSON of a ``GenerateConfig``.
    """

def defaults() -> str:
    """
    The default ``GenerateConfig`` as JSON.
    """

def generate(model: Model, tokenizer: Tokenizer, prompt: str | SupportsGetItem[int, SupportsIndex], config: str, on_text: Any | None = None, add_special_tokens: bool = True) -> str:
    """
    Continues ``prompt``, a text or token ids, and returns a JSON report; ``on_text`` receives each piece of text.

    ``config`` is the JSON of a ``GenerateConfig``. ``add_special_tokens`` is for plain text; a
    rendered chat template holds its own.
    """
