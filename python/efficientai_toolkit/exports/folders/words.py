"""Codes in words of 32 bits, the first one lowest."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pack(codes: "NDArray[Any]", bits: int) -> "NDArray[np.int32]":
    """Pack the codes of each row, ``[rows, n]`` → ``[rows, ceil(n * bits / 32)]``; ``bits`` divide 32."""
    each = 32 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each))).reshape(len(codes), -1, each)
    packed = np.zeros(padded.shape[:2], np.uint32)
    for place in range(each):
        packed |= padded[..., place].astype(np.uint32) << np.uint32(bits * place)
    return packed.view(np.int32)


def unpack(words: "NDArray[np.int32]", bits: int) -> "NDArray[np.uint8]":
    """Return all codes of each row, ``[rows, n]`` → ``[rows, n * 32 / bits]``."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    mask = np.uint32((1 << bits) - 1)
    codes = (np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts) & mask
    return codes.astype(np.uint8).reshape(len(words), -1)
