"""Tables for every position: rotations, and which tokens a token sees."""

import numpy as np

from efficientai_toolkit.exports.outline import Outline, Rope
from efficientai_toolkit.exports.tflite.graph import Tensor
from efficientai_toolkit.exports.tflite.operators import Operators

_NEVER = -1e9
"""Added to scores of tokens that must not be seen; infinities would be no numbers once multiplied."""


class Positions:
    """Adds tables, one for all layers that have it in common."""

    def __init__(self, operators: Operators, length: int) -> None:
        self._graph = operators.graph
        self._length = length
        self._masks: dict[int | None, Tensor] = {}
        self._rotations: dict[tuple[Rope, int], tuple[Tensor, Tensor]] = {}

    @staticmethod
    def size(outline: Outline) -> int:
        """Return the bytes of all tables of a decoder."""
        length, blocks = outline.context_length, outline.blocks
        masks = {block.window for block in blocks}
        rotations = {(block.rope, block.head_dim) for block in blocks if block.rope is not None}
        return 4 * length * (length * len(masks) + sum(2 * size for _, size in rotations))

    def mask(self, window: int | None) -> Tensor:
        """Return what is added to scores, ``[queries, keys]``; ``window`` is how many tokens a query sees."""
        if window not in self._masks:
            places = np.arange(self._length)
            distances = places[:, None] - places
            hidden = (distances < 0) | (window is not None and distances >= window)
            mask = np.where(hidden, np.float32(_NEVER), np.float32(0))
            self._masks[window] = self._graph.constant(f"mask_{len(self._masks)}", mask)
        return self._masks[window]

    def rotation(self, rope: Rope, head_dim: int) -> tuple[Tensor, Tensor]:
        """Return factors of the elements of a head, and of its elements with both halves swapped."""
        key = (rope, head_dim)
        if key not in self._rotations:
            cosines, sines = (rope.table(each, self._length, "float32") for each in (np.cos, np.sin))
            rest = (self._length, head_dim - 2 * len(rope.frequencies))
            own = np.concatenate([cosines, cosines, np.ones(rest, np.float32)], axis=1)
            swapped = np.concatenate([-sines, sines, np.zeros(rest, np.float32)], axis=1)
            number = len(self._rotations)
            self._rotations[key] = (
                self._graph.constant(f"cosines_{number}", own),
                self._graph.constant(f"sines_{number}", swapped),
            )
        return self._rotations[key]
