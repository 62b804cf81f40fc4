"""
Post-training quantization.
"""

from .models import Model, Tokenizer
from typing import Any

__all__ = ["check", "check_output", "defaults", "quantize", "validate"]

def check(config: str) -> None:
    """
    Checks the value of every setting of ``config``, the JSON of a ``QuantizeConfig``.
    """

def check_output(config: str) -> None:
    """
    Raises ``TrainingError`` where the output folder of a run is taken by another one, or holds none to resume.

    ``config`` is the JSON of a ``QuantizeConfig`` with ``output`` filled in.
    """

def defaults() -> str:
    """
    The default ``QuantizeConfig`` as JSON.
    """

def quantize(model: Model, tokenizer: Tokenizer, config: str, observer: Any) -> str:
    """
    Quantizes ``model`` in place, saves it, and returns a JSON report; ``observer`` receives each event as JSON.

    ``config`` is the JSON of a ``QuantizeConfig`` with ``output`` filled in.
    """

def validate(model: Model, tokenizer: Tokenizer, config: str) -> str:
    """
    Checks a whole configuration against ``model`` and reads its calibration text, without quantizing; returns counts as
    JSON.
    """
