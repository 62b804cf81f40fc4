"""Weights on a grid with whole zero points: ``scale * (code - zero_point)``.

A weight of MLX is ``scale * code + bias``: the same number where ``-bias / scale`` is a whole number in the
range of codes. Rounding to nearest of MLX makes it so, except in groups whose weights all have the same sign.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEAR = 0.125
"""Steps that a zero point may be rounded by with the scale left as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A matrix ``[rows, columns]`` in groups of columns."""

    codes: "NDArray[np.uint8]"
    """``[rows, columns]``"""
    scales: "NDArray[np.float32]"
    """``[rows, groups]``"""
    zero_points: "NDArray[np.uint8]"
    """``[rows, groups]``"""
    bits: int
    """Bits of codes and zero points."""

    @property
    def group_size(self) -> int:
        """Columns of a group."""
        return int(self.codes.shape[1] // self.scales.shape[1])

    def dequantize(self) -> "NDArray[np.float32]":
        """Return the numbers, in float32."""
        rows, groups = self.scales.shape
        steps = self.codes.reshape(rows, groups, -1).astype(np.float32)
        steps -= self.zero_points[..., None]
        steps *= self.scales[..., None]
        return steps.reshape(rows, -1)

    def split(self, group_size: int) -> "Grid":
        """Return the same numbers in smaller groups."""
        parts = self.group_size // group_size
        return Grid(
            codes=self.codes,
            scales=np.repeat(self.scales, parts, axis=1),
            zero_points=np.repeat(self.zero_points, parts, axis=1),
            bits=self.bits,
        )

    def without_zeros(self) -> "Grid":
        """Return the same numbers with no zero point at 0: groups that have it count codes from the top."""
        flipped = self.zero_points == 0
        if not flipped.any():
            return self
        top = np.uint8((1 << self.bits) - 1)
        wide = np.repeat(flipped, self.group_size, axis=1)
        return Grid(
            codes=np.where(wide, top - self.codes, self.codes),
            scales=np.where(flipped, -self.scales, self.scales),
            zero_points=np.where(flipped, top, self.zero_points),
            bits=self.bits,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A grid and how it differs from the affine weight it was made from."""

    grid: Grid
    moved: int
    """Groups whose zero point is no whole number, and was rounded."""
    rounded: int
    """Groups whose zero point is out of range, and whose weights were rounded again."""


def fit(
    codes: "NDArray[np.uint8]",
    scales: "NDArray[np.float32]",
    biases: "NDArray[np.float32]",
    *,
    stored_bits: int,
    bits: int,
    weight: "NDArray[np.float32] | None" = None,
) -> Fit:
    """Find whole zero points for affine codes.

    Parameters
    ----------
    codes
        ``[rows, columns]``
    scales, biases
        ``[rows, groups]``
    stored_bits
        Bits of ``codes``.
    bits
        Bits of the codes of the result, at least as many.
    weight
        What groups are rounded to if it has to be done again: by default what they stand for.
    """
    rows, groups = scales.shape
    top = (1 << bits) - 1
    safe = np.where(scales == 0, 1, scales).astype(np.float64)
    unrounded = -biases / safe
    points = np.rint(unrounded)
    left = np.abs(points * scales + biases)
    inside = (points >= 0) & (points <= top) & ((scales != 0) | (biases == 0))
    zero_points = np.where(inside, points, 0).astype(np.uint8)
    found = codes.reshape(rows, groups, -1).copy()
    kept = scales.copy()
    far = inside & (left > _NEAR * np.abs(scales))
    finer = np.float32(top // ((1 << stored_bits) - 1))
    if far.any():
        exact = found[far] * scales[far][:, None] + biases[far][:, None]
        # With bits to spare, the same codes on a finer grid, where zero points are closer to whole numbers.
        found[far] *= finer.astype(np.uint8)
        zero_points[far] = np.clip(np.rint(finer * unrounded[far]), 0, top)
        steps = found[far].astype(np.float32) - zero_points[far][:, None]
        kept[far] = _least_squares(steps, exact, scales[far] / finer)
    if not inside.all():
        outside = ~inside
        exact = (
            found[outside] * scales[outside][:, None] + biases[outside][:, None]
            if weight is None
            else weight.reshape(rows, groups, -1)[outside]
        )
        found[outside], kept[outside], zero_points[outside] = _round(exact, top)
    whole = left <= precision(scales) * np.abs(biases)
    return Fit(
        grid=Grid(codes=found.reshape(rows, -1), scales=kept, zero_points=zero_points, bits=bits),
        moved=int((inside & ~whole).sum()),
        rounded=int((~inside).sum()),
    )


def precision(scales: "NDArray[np.float32]") -> float:
    """Return the spacing of numbers next to 1 in the narrowest format that holds all scales."""
    if not (scales.view(np.uint32) & 0xFFFF).any():
        return 2.0**-7
    with np.errstate(over="ignore"):
        is_half = bool((scales.astype(np.float16) == scales).all())
    return 2.0**-10 if is_half else 2.0**-23


def round_rows(weight: "NDArray[np.float32]") -> Grid:
    """Round rows to 8 bits, codes from -127 to 127 above a zero point of 128, with a scale for each row."""
    scales = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    safe = np.where(scales == 0, 1, scales)
    codes = np.clip(np.rint(weight / safe), -127, 127) + 128
    zero_points = np.full((len(weight), 1), 128, np.uint8)
    return Grid(
        codes=codes.astype(np.uint8),
        scales=scales,
        zero_points=zero_points,
        bits=8,
    )


def _round(
    weight: "NDArray[np.float32]", top: int
) -> "tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]":
    """Round groups ``[groups, size]`` to nearest on a range with 0 in it."""
    low = np.minimum(weight.min(axis=1), 0)
    high = np.maximum(weight.max(axis=1), 0)
    scales = (high - low) / np.float32(top)
    safe = np.where(scales == 0, 1, scales)
    points = np.clip(np.rint(-low / safe), 0, top)
    codes = np.clip(np.rint(weight / safe[:, None]) + points[:, None], 0, top)
    scales = _least_squares(codes - points[:, None], weight, scales)
    return codes.astype(np.uint8), scales, points.astype(np.uint8)


def _least_squares(
    steps: "NDArray[np.float32]", weight: "NDArray[np.float32]", scales: "NDArray[np.float32]"
) -> "NDArray[np.float32]":
    """Return the scales for which ``scale * steps`` is closest to the weights of each group."""
    squares = (steps * steps).sum(axis=1)
    closest = (steps * weight).sum(axis=1) / np.where(squares == 0, 1, squares)
    return np.where(squares == 0, scales, closest).astype(np.float32)
