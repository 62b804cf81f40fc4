"""Comparing a graph with the model that it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from efficientai_toolkit.exports.onnx.session import Session

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model

_TOKENS = 24
_PIECES = (9, 1, 13, 1)
"""Tokens of a sequence that are read at once, with a cache between them."""


def compare(model: "Model", folder: Path) -> float:
    """Return the largest difference of logits, relative to the largest logit.

    Random tokens are read at once, and piece by piece.
    """
    session = Session(folder)
    length = min(_TOKENS, session.context_length)
    ids = np.random.default_rng(0).integers(0, session.vocab_size, size=(1, length))
    expected = model(ids)
    whole = session.logits(ids)
    pieces = session.logits_in_pieces(ids[0], [size for size in _PIECES if size <= length])
    scale = float(np.abs(expected).max())
    found = (whole, pieces)
    return max(float(np.abs(each - expected[:, : each.shape[1]]).max()) for each in found) / scale
