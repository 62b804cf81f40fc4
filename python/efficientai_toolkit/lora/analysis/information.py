"""How many parameters the data can fill."""

from collections.abc import Mapping
from typing import Any

BITS_PER_PARAMETER = 2.0
"""What a trained parameter holds at most (`Allen-Zhu and Li 2024 <https://arxiv.org/abs/2404.05405>`_)."""

_ROOM = 2.0
"""Training finds its way with more parameters than the result needs."""


def estimate_information(train: Mapping[str, Any]) -> float:
    """Bits that there are to learn, an upper bound.

    The smaller of two bounds on the texts counts, in that share of their tokens that is learned:

    - tokens, times the entropy of their frequencies, without rows that almost repeat an earlier one. The
      vocabulary that is used bounds the entropy;
    - the size to which zstd compresses the texts, which long repetitions make small.

    Parameters
    ----------
    train
        The engine's statistics of the training rows.
    """
    repeated = train["near_duplicates"] / max(train["rows"], 1)
    by_frequency = train["tokens"] * train["entropy"] * (1 - repeated)
    by_compression = 8.0 * train["compressed_bytes"]
    learned = train["trained_tokens"] / max(train["kept_tokens"], 1)
    return float(min(by_frequency, by_compression) * learned)


def bound_mean_rank(train: Mapping[str, Any], parameters_per_rank: int, most: float) -> float:
    """Mean rank beyond which the data cannot fill the adapters, from 1 to ``most``.

    Parameters
    ----------
    train
        As for :func:`estimate_information`.
    parameters_per_rank
        Of all layers together.
    most
        Bound whatever the data hold.
    """
    parameters = _ROOM * estimate_information(train) / BITS_PER_PARAMETER
    return min(max(parameters / parameters_per_rank, 1.0), most)
