"""Codes of signed integers with one scale for each row of a matrix."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from efficientai_toolkit.exports import blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHARES = {4: np.linspace(0.5, 1, 26, dtype=np.float32), 8: np.ones(1, np.float32)}
"""Largest codes to try, by bits, as shares of the largest weight. With few codes, some large weights are
better cut off."""

_CHUNK = 1 << 20
"""Weights that are rounded at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PerChannel:
    """A matrix ``[rows, columns]``."""

    codes: "NDArray[np.uint8]"
    """In two's complement, packed, the first lowest."""
    scales: "NDArray[np.float32]"
    """``[rows]``"""


def round_rows(matrix: "NDArray[np.float32]", bits: int) -> PerChannel:
    """Round a matrix with the scale of each row that leaves the smallest squared error."""
    rows = max(_CHUNK // matrix.shape[1], 1)
    found = [_round(matrix[start : start + rows], bits) for start in range(0, len(matrix), rows)]
    codes = np.concatenate([codes for codes, _ in found]).view(np.uint8)
    packed = blocks.pack(codes & np.uint8((1 << bits) - 1), bits)
    return PerChannel(codes=packed, scales=np.concatenate([scales for _, scales in found]))


def _round(matrix: "NDArray[np.float32]", bits: int) -> "tuple[NDArray[np.int8], NDArray[np.float32]]":
    top = (1 << (bits - 1)) - 1
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    # A row of zeros has codes of zero whatever its scale.
    largest[largest == 0] = top
    steps = largest / np.float32(top)
    least = np.full((len(matrix), 1), np.inf, np.float32)
    best = steps
    for share in _SHARES[bits]:
        tried = steps * share
        errors = np.square(_nearest(matrix, tried, top) * tried - matrix).sum(axis=1, keepdims=True)
        best, least = np.where(errors <= least, tried, best), np.minimum(errors, least)
    return _nearest(matrix, best, top).astype(np.int8), best[:, 0]


def _nearest(matrix: "NDArray[np.float32]", steps: "NDArray[np.float32]", top: int) -> "NDArray[np.float32]":
    return np.clip(np.rint(matrix / steps), -top, top)
