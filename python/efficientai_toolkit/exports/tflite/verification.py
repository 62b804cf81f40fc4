"""Comparing a file with the model that it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit.exports.comparison import relative_difference, sample_ids
from efficientai_toolkit.exports.tflite.session import Session

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model


def compare(model: "Model", folder: Path) -> float:
    """Return the largest difference of logits, relative to the largest logit.

    Raises
    ------
    DeploymentError
        If a logit is no number.
    """
    session = Session(folder)
    ids = sample_ids(session.tokenizer, session.context_length)
    return relative_difference(model(ids), session.logits(ids), name=f"{folder}: LiteRT")
