"""Comparing a graph with the model that it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from efficientai_toolkit.exceptions import DeploymentError
from efficientai_toolkit.exports.onnx.session import Session

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model

_TEXT = (
    "Water boils at a lower temperature on a high mountain, because the air above it is thinner: at 3000 "
    "metres it is about 90 degrees."
)
"""Rounded activations err less on text than on tokens that never follow each other."""

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
    ids = np.array([session.tokenizer.encode(_TEXT)[: session.context_length]])
    expected = model(ids)
    scale = float(np.abs(expected).max())
    sizes = [_PIECE, 1] * (ids.shape[1] // _PIECE + 1)
    found = (session.logits(ids), session.logits_in_pieces(ids[0], sizes))
    largest = max(float(np.abs(each - expected).max()) for each in found)
    if not np.isfinite(largest):
        message = (
            f"{folder}: onnxruntime gives logits that are no numbers, unlike the model: activations are too "
            "large for the type; choose f32"
        )
        raise DeploymentError(message)
    return largest / scale
