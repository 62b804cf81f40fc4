"""
Pruning.
"""

from .models import Model, Tokenizer
from typing import Any

__all__ = ["check", "check_output", "defaults", "measure", "prune", "validate"]

def check(config: str) -> None:
    """
    Checks the value of every setting of ``config``, the JSON of a ``PruneConfig``.
    """

def check_output(config: str) -> None:
    """
    Raises ``TrainingError`` where the output folder of a run is taken by another one, or holds none to resume.

    ``config`` is the JSON of a ``PruneConfig`` with ``output`` filled in.
    """

def defaults() -> str:
    """
    The default ``PruneConfig`` as JSON.
    """

def measure(layer: str) -> str:
    """
    Prunes a layer of random weights once by each method and returns the seconds of each part as JSON; ``layer`` is the JSON
    of its sizes.
    """

def prune(model: Model, tokenizer: Tokenizer, config: str, observer: Any) -> str:
    """
    Prunes ``model`` in place, saves it, and returns a JSON report; ``observer`` receives each event as JSON.

    ``config`` is the JSON of a ``PruneConfig`` with ``output`` filled in.
    """

def validate(model: Model, tokenizer: Tokenizer, config: str) -> str:
    """
    Checks a whole configuration against ``model`` and reads its calibration text, without pruning; returns counts as
    JSON.
    """
