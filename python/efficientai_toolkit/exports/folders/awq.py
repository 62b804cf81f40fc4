"""AWQ checkpoints, in AutoAWQ's layout ``gemm`` (https://github.com/casper-hansen/AutoAWQ).

``qweight`` is ``[in, out/8]``, ``qzeros`` ``[groups, out/8]``: words of eight outputs, in an
order of their own; ``scales`` is ``[groups, out]``, float16.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from efficientai_toolkit.exports.folders import words
from efficientai_toolkit.exports.folders.layout import Layer, Layout, most_common

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from efficientai_toolkit.exports.folders.grid import Grid

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The n-th code of a word is that of this output of eight."""


class AwqLayout(Layout):
    """4 bits, with a zero point for each group."""

    method: ClassVar[str] = "awq"
    bits: ClassVar[tuple[int, ...]] = (4,)
    dtype: ClassVar[str | None] = "float16"
    mixes: ClassVar[bool] = False

    def fits(self, layer: Layer) -> bool:
        """Return whether outputs fill whole words."""
        return layer.rows % len(_ORDER) == 0

    def pack(self, grid: "Grid") -> "dict[str, NDArray[Any]]":
        """Return ``qweight``, ``qzeros`` and ``scales``."""
        return {
            "qweight": _pack(grid.codes.T),
            "qzeros": _pack(grid.zero_points.T),
            "scales": np.ascontiguousarray(grid.scales.T),
        }

    def unpack(self, tensors: "Mapping[str, NDArray[Any]]", layer: Layer) -> "NDArray[np.float32]":
        """Return the weight that tensors stand for, ``[rows, columns]``."""
        steps = _unpack(tensors["qweight"]).astype(np.float32)
        steps -= np.repeat(_unpack(tensors["qzeros"]), layer.group_size, axis=0)
        steps *= np.repeat(tensors["scales"], layer.group_size, axis=0)
        return steps.T

    def describe(self, layers: Mapping[str, Layer], dense: list[str]) -> dict[str, Any]:
        """Return ``quantization_config``."""
        bits, group_size = most_common(layers)
        return {
            "quant_method": self.method,
            "bits": bits,
            "group_size": group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": dense or None,
        }


def _pack(codes: "NDArray[np.uint8]") -> "NDArray[np.int32]":
    ordered = codes.reshape(len(codes), -1, len(_ORDER))[..., _ORDER]
    return words.pack(ordered.reshape(codes.shape), 4)


def _unpack(packed: "NDArray[np.int32]") -> "NDArray[np.uint8]":
    stored = words.unpack(packed, 4)
    codes = np.empty_like(stored)
    for place, output in enumerate(_ORDER):
        codes[:, output :: len(_ORDER)] = stored[:, place :: len(_ORDER)]
    return codes
