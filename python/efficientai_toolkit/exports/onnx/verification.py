"""Comparing a graph with the model that it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit.exports.comparison import relative_difference, sample_ids
from efficientai_toolkit.exports.onnx.session import Session

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model

_PIECE = 9
"""Tokens that are read at once, before one that is read alone."""


def compare(model: "Model", folder: Path) -> float:
    """Return the largest difference of logits, relative to the largest logit.

    A text is read at once, and piece by piece.

    Raises
    ------
    DeploymentError
        If a logit is no number.
    """
    session = Session(folder)
    ids = sample_ids(session.tokenizer, session.context_length)
    sizes = [_PIECE, 1] * (ids.shape[1] // _PIECE + 1)
    found = (session.logits(ids), session.logits_in_pieces(ids[0], sizes))
    return relative_difference(model(ids), *found, name=f"{folder}: onnxruntime")
