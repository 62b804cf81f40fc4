"""Estimates of the information in the data."""

from collections.abc import Mapping
from typing import Any

BITS_PER_PARAMETER = 2.0
"""Capacity of a trained parameter (`Allen-Zhu and Li 2024 <https://arxiv.org/abs/2404.05405>`_)."""

_ROOM = 2.0
"""Training benefits from more parameters than the result requires."""


def estimate_information(train: Mapping[str, Any]) -> float:
    """Estimate an upper bound on the information to learn, in bits.

    The bound is the smaller of the following, multiplied by the fraction of tokens that are learned:

    - number of tokens, without near-duplicate rows, times the entropy of the token frequencies;
    - size of the texts after compression with zstd, which is small for repetitive texts.

    Parameters
    ----------
    train
        Data statistics of the training split.
    """
    repeated = train["near_duplicates"] / max(train["rows"], 1)
    by_frequency = train["tokens"] * train["entropy"] * (1 - repeated)
    by_compression = 8.0 * train["compressed_bytes"]
    learned = train["trained_tokens"] / max(train["kept_tokens"], 1)
    return float(min(by_frequency, by_compression) * learned)


def bound_mean_rank(train: Mapping[str, Any], parameters_per_rank: int, most: float) -> float:
    """Compute the maximum mean rank the data justify, from 1 to ``most``.

    Parameters
    ----------
    train
        Data statistics of the training split.
    parameters_per_rank
        Adapter parameters per rank, over all layers.
    most
        Upper bound of the result.
    """
    parameters = _ROOM * estimate_information(train) / BITS_PER_PARAMETER
    return min(max(parameters / parameters_per_rank, 1.0), most)
