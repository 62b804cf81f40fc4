"""Codes with a scale and an offset for each block of columns: ``scale * (code - offset)``, in float16.

A weight of MLX is ``scale * code + bias``. Codes are the same; offsets are whole numbers, of the type of the
codes, where all biases of a matrix are such multiples of their scales, and float16 otherwise.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports import blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONTAINERS = {2: 4, 3: 4, 4: 4, 5: 8, 6: 8, 8: 8}
"""Bits that codes of some bits are stored in."""

_FARTHEST = 512
"""Largest offset in float16 whose rounding is less than half a code."""


@dataclass(kw_only=True, slots=True)
class Blockwise:
    """A matrix ``[rows, columns]``."""

    bits: int
    """Bits of a code, 4 or 8."""
    codes: "NDArray[np.uint8]"
    """``[rows, columns]``"""
    scales: "NDArray[np.float16]"
    """``[rows, blocks]``"""
    offsets: "NDArray[np.uint8] | NDArray[np.float16]"
    """``[rows, blocks]``"""
    rounded: int = 0
    """Blocks that were rounded again, because float16 has not their scales or offsets."""


def from_mlx(codes: Any, scales: Any, biases: Any, *, bits: int, path: str) -> Blockwise:
    """Convert an affine weight of MLX.

    Raises
    ------
    ConfigError
        If a scale is too large for float16.
    """
    packed = np.ascontiguousarray(codes).view(np.uint8).reshape(len(codes), -1)
    unpacked = blocks.unpack(packed, bits)
    halves = to_half(scales, path)
    container = _CONTAINERS[bits]
    whole = blocks.whole_zero_points(scales, biases, container)
    if whole is not None and not ((halves == 0) & (scales != 0)).any():
        return Blockwise(bits=container, codes=unpacked, scales=halves, offsets=whole)
    exact = -biases / np.where(scales == 0, 1, scales).astype(np.float64)
    far = (np.abs(exact) > _FARTHEST) | ((halves == 0) & ((scales != 0) | (biases != 0)))
    with np.errstate(over="ignore"):
        found = Blockwise(bits=container, codes=unpacked, scales=halves, offsets=exact.astype(np.float16))
    _round_again(found, far, scales, biases, path)
    return found


def to_half(scales: "NDArray[Any]", path: str) -> "NDArray[np.float16]":
    """Return scales in float16.

    Raises
    ------
    ConfigError
        If one is too large.
    """
    if np.abs(scales).max(initial=0) > np.finfo(np.float16).max:
        message = f"scales of {path} are too large for float16, which Core ML decodes weights to"
        raise ConfigError(message)
    return scales.astype(np.float16)


def _round_again(found: Blockwise, far: Any, scales: Any, biases: Any, path: str) -> None:
    """Give some blocks a scale and a whole offset of their own."""
    found.rounded = int(far.sum())
    if not found.rounded:
        return
    split = found.codes.reshape(*scales.shape, -1)
    # [blocks that are rounded, columns of a block]
    weights = scales[far][:, None] * split[far].astype(np.float32) + biases[far][:, None]
    low, high = np.minimum(weights.min(1), 0), np.maximum(weights.max(1), 0)
    last = (1 << found.bits) - 1
    halves = to_half((high - low) / last, path)
    steps = np.where(halves == 0, 1, halves).astype(np.float32)
    offsets = np.rint(-low / steps)
    split[far] = np.clip(np.rint(weights / steps[:, None]) + offsets[:, None], 0, last).astype(np.uint8)
    found.scales[far], found.offsets[far] = halves, offsets.astype(np.float16)
