"""Palettes: 16 numbers that stand for all weights of some rows.

They minimize the squared error (k-means). float16 has few numbers, and a group fewer: equal ones are
clustered once, weighted by how many they are.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBERS = 16

_ROWS = 32
"""Rows that share a palette, where several do."""

_STEPS = 200
"""Most iterations of a clustering."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Palettes:
    """A matrix ``[rows, columns]``."""

    codes: "NDArray[np.uint8]"
    """Places in the palette, ``[rows, columns]``."""
    numbers: "NDArray[np.float16]"
    """``[groups of rows, 16]``"""


def find_palettes(matrix: "NDArray[np.float32]", *, grouped: bool) -> Palettes:
    """Cluster the numbers of a matrix, by groups of rows if ``grouped`` and rows can be divided so."""
    rows = len(matrix)
    size = _ROWS if grouped and rows % _ROWS == 0 else rows
    codes = np.empty(matrix.shape, np.uint8)
    numbers = np.empty((rows // size, _NUMBERS), np.float16)
    for group in range(rows // size):
        place = slice(group * size, (group + 1) * size)
        codes[place], numbers[group] = _cluster(matrix[place])
    return Palettes(codes=codes, numbers=numbers)


def _cluster(matrix: "NDArray[np.float32]") -> "tuple[NDArray[np.uint8], NDArray[np.float16]]":
    distinct, places, counts = np.unique(matrix.astype(np.float16), return_inverse=True, return_counts=True)
    palette = np.zeros(_NUMBERS, np.float16)
    if len(distinct) <= _NUMBERS:
        palette[: len(distinct)] = distinct
        return places.reshape(matrix.shape).astype(np.uint8), palette
    points = distinct.astype(np.float64)
    palette[:] = _centres(points, counts)
    # The nearest of the rounded numbers.
    nearest = np.searchsorted(_middles(palette.astype(np.float64)), points).astype(np.uint8)
    return nearest[places].reshape(matrix.shape), palette


def _centres(points: "NDArray[np.float64]", counts: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Return the means of clusters of sorted points, of which each is a range: sums of ranges are enough."""
    amounts = np.concatenate([[0], np.cumsum(counts)])
    sums = np.concatenate([[0], np.cumsum(counts * points)])
    quantiles = (np.arange(_NUMBERS) + 0.5) / _NUMBERS * amounts[-1]
    centres: NDArray[np.float64] = points[np.searchsorted(amounts[1:], quantiles)]
    for _ in range(_STEPS):
        edges = np.searchsorted(points, _middles(centres))
        edges = np.concatenate([[0], edges, [len(points)]])
        amount = np.diff(amounts[edges])
        # A cluster without points stays where it is.
        moved = np.where(amount > 0, np.diff(sums[edges]) / np.maximum(amount, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _middles(centres: "NDArray[np.float64]") -> "NDArray[np.float64]":
    middles: NDArray[np.float64] = (centres[1:] + centres[:-1]) / 2
    return middles
