"""Exact search for similar features."""

import numpy as np
from numpy.typing import NDArray


def search(
    queries: NDArray[np.float32], index: NDArray[np.float32], count: int = 10
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Find the rows of ``index`` that are most similar to each query.

    Parameters
    ----------
    queries, index
        Features, ``[n, dim]``, of length 1.
    count
        Rows per query.

    Returns
    -------
    indices, similarities
        uint32 and float32 ``[queries, count]``, the most similar first; of equal ones the earlier row.

    Raises
    ------
    ConfigError
        If features have different sizes, or are not numbers.
    """
    from efficientai_toolkit._engine.core import core

    return core.clip.search(queries, index, count)
