"""
Fine-tuning.
"""

from .models import Model, Tokenizer
from typing import Any

__all__ = ["analyze", "check", "check_output", "defaults", "estimate_memory", "train", "validate"]

def analyze(model: Model, tokenizer: Tokenizer, config: str, probe: str) -> str:
    """
    Analyzes the data of ``config`` and the gradient of each layer that it adapts, without training; returns both as JSON.

    ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in, ``probe`` that of ``batches``, whose mean
    gradient is taken, and ``width``, the number of singular values.
    """

def check(config: str) -> None:
    """
    Checks the value of every setting of ``config``, the JSON of a ``TrainingConfig``.
    """

def check_output(config: str) -> None:
    """
    Raises ``TrainingError`` where the output folder of a run is taken by another one, or holds none to resume.

    ``config`` is the JSON of a ``TrainingConfig`` with ``output`` filled in.
    """

def defaults() -> str:
    """
    The default ``TrainingConfig`` as JSON.
    """

def estimate_memory(model: Model, tokenizer: Tokenizer, config: str) -> str:
    """
    Estimates what a run with this configuration takes of MLX's memory; returns a ``MemoryEstimate`` as JSON.

    ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in.
    """

def train(model: Model, tokenizer: Tokenizer, config: str, observer: Any) -> str:
    """
    Trains ``model`` in place and returns a JSON report; ``observer`` receives each event as JSON.

    ``config`` is the JSON of a ``TrainingConfig`` with ``data`` and ``output`` filled in.
    """

def validate(model: Model, tokenizer: Tokenizer, config: str) -> str:
    """
    Checks a whole configuration against ``model`` and reads its data, without training; returns
    statistics of each split as JSON.

    ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in.
    """
