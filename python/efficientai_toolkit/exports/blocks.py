"""Weights in blocks, as MLX has them, and as the operator MatMulNBits of onnxruntime stores them.

A weight of MLX is ``scale * code + bias``, one of MatMulNBits ``scale * (code - zero_point)``. Codes and
scales are the same numbers; the codes of 2, 4 and 8 bits even have the same bytes. Zero points are whole
numbers, packed like codes, where all biases of a matrix are such multiples of their scales; otherwise the
operator works without them, and what is missing, one number per block, is added by a small product.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTAINERS = {2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 8: 8}
"""Bits that codes of some bits are stored in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """A matrix ``[rows, columns]`` in blocks of columns."""

    codes: "NDArray[np.uint8]"
    """Packed, ``[rows, blocks, block_size * bits / 8]``."""
    scales: "NDArray[np.float32]"
    """``[rows, blocks]``"""
    zero_points: "NDArray[np.uint8] | None"
    """Packed, ``[rows, ceil(blocks * bits / 8)]``; ``None`` if ``offsets`` take their place."""
    offsets: "NDArray[np.float32] | None"
    """What to add to weights with the zero point ``2 ** (bits - 1)``, ``[blocks, rows]``."""


def from_mlx(
    codes: "NDArray[np.uint32]",
    scales: "NDArray[np.float32]",
    biases: "NDArray[np.float32]",
    *,
    bits: int,
) -> Blocks:
    """Convert an affine weight of MLX without rounding codes or scales."""
    container = CONTAINERS[bits]
    rows, blocks = scales.shape
    packed = np.ascontiguousarray(codes).view(np.uint8).reshape(rows, -1)
    if container != bits:
        packed = pack(unpack(packed, bits), container)
    points = whole_zero_points(scales, biases, container)
    offsets = None
    if points is None:
        centre = float(1 << (container - 1))
        offsets = (biases + centre * scales.astype(np.float64)).T.astype(np.float32)
    return Blocks(
        codes=packed.reshape(rows, blocks, -1),
        scales=scales,
        zero_points=None if points is None else pack(points, container),
        offsets=offsets,
    )


def whole_zero_points(
    scales: "NDArray[np.float32]", biases: "NDArray[np.float32]", bits: int
) -> "NDArray[np.uint8] | None":
    """Return the zero points, if whole numbers give all biases to the last bit of float32."""
    safe = np.where(scales == 0, 1, scales).astype(np.float64)
    points = np.rint(-biases / safe)
    left = np.abs(points * scales.astype(np.float64) + biases)
    fits = (points >= 0) & (points < 1 << bits) & (left <= np.spacing(np.abs(biases)))
    return points.astype(np.uint8) if bool(fits.all()) else None


def unpack(packed: "NDArray[np.uint8]", bits: int) -> "NDArray[np.uint8]":
    """Return the codes of a little-endian stream of bits, ``[rows, bytes]`` → ``[rows, codes]``."""
    stream = np.unpackbits(packed, axis=-1, bitorder="little").reshape(len(packed), -1, bits)
    padding = np.zeros((*stream.shape[:2], 8 - bits), np.uint8)
    return np.packbits(np.concatenate([stream, padding], -1), axis=-1, bitorder="little")[..., 0]


def pack(codes: "NDArray[np.uint8]", bits: int) -> "NDArray[np.uint8]":
    """Pack codes of 2, 4 or 8 bits, first ones lowest; rows are filled up to whole bytes."""
    each = 8 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each))).reshape(len(codes), -1, each)
    packed = np.zeros(padded.shape[:2], np.uint8)
    for place in range(each):
        packed |= padded[..., place] << np.uint8(bits * place)
    return packed


def dequantize(
    codes: Any, scales: Any, biases: Any, *, bits: int, group_size: int, mode: str
) -> "NDArray[np.float32]":
    """Return the float32 numbers that a quantized weight of MLX stands for."""
    import mlx.core as mx

    dense: Any = mx.dequantize(
        mx.array(codes),
        mx.array(scales),
        None if biases is None else mx.array(biases),
        group_size=group_size,
        bits=bits,
        mode=mode,
    )
    return np.array(dense.astype(mx.float32), np.float32)


def quantize(
    weight: "NDArray[np.float32]", *, bits: int, group_size: int
) -> "tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]":
    """Round a weight as MLX does: codes, scales and biases."""
    import mlx.core as mx

    codes, scales, biases = mx.quantize(mx.array(weight), group_size=group_size, bits=bits)
    return np.array(codes, np.uint32), np.array(scales, np.float32), np.array(biases, np.float32)
