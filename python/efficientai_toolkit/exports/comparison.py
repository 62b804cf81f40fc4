"""Logits of a text beside those of the model that was exported."""

from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.exceptions import DeploymentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from efficientai_toolkit._core.models import Tokenizer

_TEXT = (
    "Water boils at a lower temperature on a high mountain, because the air above it is thinner: at 3000 "
    "metres it is about 90 degrees."
)
"""Rounded activations err less on text than on tokens that never follow each other."""


def sample_ids(tokenizer: "Tokenizer", limit: int) -> "NDArray[np.int64]":
    """Return the ids of a text, ``[1, time]``, of which at most ``limit``."""
    return np.array([tokenizer.encode(_TEXT)[:limit]])


def relative_difference(expected: Any, *found: Any, name: str) -> float:
    """Return the largest difference of logits, relative to the largest logit.

    Raises
    ------
    DeploymentError
        If a logit of the export called ``name`` is no number.
    """
    largest = max(float(np.abs(each - expected).max()) for each in found)
    if not np.isfinite(largest):
        message = (
            f"{name} gives logits that are no numbers, unlike the model: activations are too large for the "
            "type; choose f32"
        )
        raise DeploymentError(message)
    # A model may predict nothing at all.
    return largest / max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
