"""
The order of training data.
"""

from _typeshed import SupportsGetItem
from typing import SupportsIndex

__all__ = ["epoch_batches"]

def epoch_batches(lengths: SupportsGetItem[int, SupportsIndex], batch_size: SupportsIndex, seed: SupportsIndex, epoch: SupportsIndex) -> list[list[int]]:
    """
    Rows of each batch in one pass over rows of these lengths, in tokens: what another library has to read to learn from
    the same batches.
    """
