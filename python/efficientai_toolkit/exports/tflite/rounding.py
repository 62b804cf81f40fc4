"""Codes of signed integers with one scale for each row of a matrix, or for each block of columns."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

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
class Rounded:
    """A matrix ``[rows, columns]``."""

    codes: "NDArray[np.uint8]"
    """In two's complement, packed, the first lowest."""
    scales: "NDArray[Any]"
    """``[rows]`` in float32, or ``[rows, blocks]`` in float16."""


def round_rows(matrix: "NDArray[np.float32]", bits: int) -> Rounded:
    """Round a matrix with the scale of each row that leaves the smallest squared error."""
    codes, scales = _round_in_parts(matrix, bits, "float32")
    return Rounded(codes=codes, scales=scales)


def round_blocks(matrix: "NDArray[np.float32]", bits: int, block_size: int) -> Rounded:
    """As :func:`round_rows`, with a scale in float16 for each block of columns."""
    codes, scales = _round_in_parts(matrix.reshape(-1, block_size), bits, "float16")
    return Rounded(codes=codes, scales=scales.reshape(len(matrix), -1))


def _round_in_parts(
    matrix: "NDArray[np.float32]", bits: int, dtype: str
) -> "tuple[NDArray[np.uint8], NDArray[Any]]":
    rows = max(_CHUNK // matrix.shape[1], 1)
    found = [_round(matrix[start : start + rows], bits, dtype) for start in range(0, len(matrix), rows)]
    codes = np.concatenate([codes for codes, _ in found]).view(np.uint8)
    packed = blocks.pack(codes & np.uint8((1 << bits) - 1), bits)
    return packed, np.concatenate([scales for _, scales in found])


def _round(matrix: "NDArray[np.float32]", bits: int, dtype: str) -> "tuple[NDArray[np.int8], NDArray[Any]]":
    top = (1 << (bits - 1)) - 1
    # A row of zeros has codes of zero whatever its scale.
    least_step = float(np.finfo(dtype).tiny)
    steps = np.maximum(np.abs(matrix).max(axis=1, keepdims=True) / np.float32(top), least_step)
    least = np.full((len(matrix), 1), np.inf, np.float32)
    best = steps
    for share in _SHARES[bits]:
        tried = np.maximum(steps * share, least_step).astype(dtype).astype(np.float32)
        errors = np.square(_nearest(matrix, tried, top) * tried - matrix).sum(axis=1, keepdims=True)
        best = cast("NDArray[np.float32]", np.where(errors <= least, tried, best))
        least = np.minimum(errors, least)
    return _nearest(matrix, best, top).astype(np.int8), best[:, 0].astype(dtype)


def _nearest(matrix: "NDArray[np.float32]", steps: "NDArray[np.float32]", top: int) -> "NDArray[np.float32]":
    nearest: NDArray[np.float32] = np.clip(np.rint(matrix / steps), -top, top)
    return nearest
