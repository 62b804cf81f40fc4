"""
Generating text.
"""

from .models import Model, Tokenizer
from typing import Any

__all__ = ["defaults", "generate"]

def defaults() -> str:
    """
    The default ``GenerateConfig`` as JSON.
    """

def generate(model: Model, tokenizer: Tokenizer, prompt: str, config: str, on_text: Any | None = None, add_special_tokens: bool = True) -> str:
    """
    Continues ``prompt`` and returns a JSON report; ``on_text`` receives each piece of text.

    ``config`` is the JSON of a ``GenerateConfig``. ``add_special_tokens`` is for plain text; a
    rendered chat template holds its own.
    """
