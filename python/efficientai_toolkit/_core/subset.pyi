"""
Data-set quantization.
"""

from .models import Model, Tokenizer
from typing import Any

__all__ = ["check", "check_output", "defaults", "select"]

def check(config: str) -> None:
    """
    Checks the value of every setting of ``config``, the JSON of a ``SubsetConfig``.
    """

def check_output(config: str) -> None:
    """
    Raises ``TrainingError`` where the output folder is taken by other rows or a run.

    ``config`` is the JSON of a ``SubsetConfig`` with ``output`` filled in.
    """

def defaults() -> str:
    """
    The default ``SubsetConfig`` as JSON.
    """

def select(model: Model, tokenizer: Tokenizer, config: str, observer: Any) -> str:
    """
    Chooses rows that stand for all, stores them, and returns a JSON report; ``observer`` receives each event as JSON.

    ``config`` is the JSON of a ``SubsetConfig`` with ``data`` and ``output`` filled in.
    """
