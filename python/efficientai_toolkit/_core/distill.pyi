"""
Distillation.
"""

from .models import Model, Tokenizer
from os import PathLike
from typing import Any

__all__ = ["check", "defaults", "distill"]

def check(config: str, training: str = "{}") -> None:
    """
    Checks the value of every setting of ``config``, the JSON of a ``DistillConfig``, and whether it goes with ``training``, that
    of a ``TrainingConfig``.
    """

def defaults() -> str:
    """
    The default ``DistillConfig`` as JSON.
    """

def distill(model: Model, tokenizer: Tokenizer, teacher: str | PathLike[str], teacher_tokenizer: Tokenizer, training: str, config: str, observer: Any) -> str:
    """
    Trains ``model`` in place towards the model in the folder ``teacher`` and returns a JSON report; ``observer`` receives each
    event as JSON.

    ``training`` is the JSON of a ``TrainingConfig`` with ``data`` and ``output`` filled in, ``config`` that of a
    ``DistillConfig``.
    """
