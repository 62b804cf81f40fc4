"""
Models in the formats of other programs.
"""

from .models import Model, Tokenizer
from os import PathLike
from typing import Any

__all__ = ["defaults", "read_gguf_card", "verify_gguf", "verify_gguf_adapter", "write_gguf", "write_gguf_adapter"]

def defaults() -> str:
    """
    The default ``GgufConfig`` as JSON.
    """

def read_gguf_card(path: str | PathLike[str]) -> str:
    """
    What a GGUF file tells of its model, the JSON of a ``Card``.
    """

def verify_gguf(model: Model, path: str | PathLike[str], observer: Any) -> float:
    """
    Reads a GGUF file back and returns its largest relative difference to ``model``.
    """

def verify_gguf_adapter(model: Model, path: str | PathLike[str]) -> float:
    """
    Reads a GGUF adapter back and returns its largest relative difference to the one in use on ``model``.
    """

def write_gguf(model: Model, tokenizer: Tokenizer, settings: str, card: str, path: str | PathLike[str], observer: Any) -> str:
    """
    Writes ``model``, with its adapters in use merged, as a GGUF file and returns a JSON report; ``observer`` receives each
    event as JSON.

    ``settings`` is the JSON of a ``GgufConfig``, ``card`` that of a ``Card``.
    """

def write_gguf_adapter(model: Model, settings: str, card: str, path: str | PathLike[str], observer: Any) -> str:
    """
    Writes the adapter in use on ``model`` as a GGUF adapter and returns a JSON report; arguments as of ``write_gguf``.
    """
