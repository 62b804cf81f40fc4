"""Palettes: 16 numbers that stand for all weights of some rows.

They minimize the squared error (k-means). float16 has few numbers, and a group fewer: equal ones are
clustered once, weighted by how many they are.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from efficientai_toolkit._base.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBERS = 16

_ROWS = 32
"""Rows that share a palette, where several do."""

_STEPS = 40
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
    require("sklearn", extra="coreml", purpose="the Core ML export of palettes")
    rows = len(matrix)
    size = _ROWS if grouped and rows % _ROWS == 0 else rows
    codes = np.empty(matrix.shape, np.uint8)
    numbers = np.empty((rows // size, _NUMBERS), np.float16)
    for group in range(rows // size):
        place = slice(group * size, (group + 1) * size)
        codes[place], numbers[group] = _cluster(matrix[place])
    return Palettes(codes=codes, numbers=numbers)


def _cluster(matrix: "NDArray[np.float32]") -> "tuple[NDArray[np.uint8], NDArray[np.float16]]":
    from sklearn.cluster import KMeans

    distinct, places, counts = np.unique(matrix.astype(np.float16), return_inverse=True, return_counts=True)
    palette = np.zeros(_NUMBERS, np.float16)
    if len(distinct) <= _NUMBERS:
        palette[: len(distinct)] = distinct
        return places.reshape(matrix.shape).astype(np.uint8), palette
    points = distinct.astype(np.float64)
    # Quantiles, of which no two are the same number.
    steps = np.cumsum(counts) / counts.sum()
    first = np.searchsorted(steps, (np.arange(_NUMBERS) + 0.5) / _NUMBERS)
    first = np.minimum(np.maximum(first, np.arange(_NUMBERS)), len(points) - _NUMBERS + np.arange(_NUMBERS))
    first = np.maximum.accumulate(first - np.arange(_NUMBERS)) + np.arange(_NUMBERS)
    found = KMeans(_NUMBERS, init=points[first][:, None], n_init=1, max_iter=_STEPS).fit(
        points[:, None], sample_weight=counts
    )
    centres = found.cluster_centers_[:, 0].astype(np.float16)
    order = np.argsort(centres)
    palette[:] = centres[order]
    # The nearest of the rounded numbers.
    edges = (palette[1:].astype(np.float64) + palette[:-1]) / 2
    nearest = np.searchsorted(edges, points).astype(np.uint8)
    return nearest[places].reshape(matrix.shape), palette
