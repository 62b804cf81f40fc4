"""GPTQ checkpoints, as AutoGPTQ and GPTQModel write them (https://github.com/ModelCloud/GPTQModel).

``qweight`` is ``[in*bits/32, out]``, packed along inputs, ``qzeros`` ``[groups, out*bits/32]``, packed along
outputs; ``scales`` is ``[groups, out]``, float16, and ``g_idx`` ``[in]`` names the group of each input. The
first version of the format, ``gptq``, stores zero points minus 1; ``gptq_v2`` stores them as they are.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from efficientai_toolkit._base.version import __version__
from efficientai_toolkit.exports.folders import words
from efficientai_toolkit.exports.folders.layout import Layer, Layout, most_common, with_fused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from efficientai_toolkit.exports.folders.grid import Grid


class GptqLayout(Layout):
    """4 or 8 bits, with a zero point for each group."""

    method: ClassVar[str] = "gptq"
    bits: ClassVar[tuple[int, ...]] = (4, 8)
    dtype: ClassVar[str | None] = "float16"

    def __init__(self, checkpoint_format: str) -> None:
        self._checkpoint_format = checkpoint_format
        self._offset = np.uint8(checkpoint_format == "gptq")

    def fits(self, layer: Layer) -> bool:
        """Return whether inputs and outputs fill whole words."""
        return layer.rows * layer.bits % 32 == 0 and layer.columns * layer.bits % 32 == 0

    def pack(self, grid: "Grid") -> "dict[str, NDArray[Any]]":
        """Return ``qweight``, ``qzeros``, ``scales`` and ``g_idx``."""
        # 0 minus 1 would carry over into the next zero point in some readers.
        grid = grid.without_zeros() if self._offset else grid
        groups = np.arange(grid.codes.shape[1], dtype=np.int32) // np.int32(grid.group_size)
        return {
            "qweight": np.ascontiguousarray(words.pack(grid.codes, grid.bits).T),
            "qzeros": words.pack(grid.zero_points.T - self._offset, grid.bits),
            "scales": np.ascontiguousarray(grid.scales.T),
            "g_idx": groups,
        }

    def unpack(self, tensors: "Mapping[str, NDArray[Any]]", layer: Layer) -> "NDArray[np.float32]":
        """Return the weight that tensors stand for, ``[rows, columns]``."""
        groups = tensors["g_idx"]
        zero_points = words.unpack(tensors["qzeros"], layer.bits).astype(np.float32) + self._offset
        steps = words.unpack(tensors["qweight"].T, layer.bits).astype(np.float32)
        steps -= zero_points.T[:, groups]
        steps *= tensors["scales"].T[:, groups]
        return steps

    def describe(self, layers: Mapping[str, Layer], dense: list[str]) -> dict[str, Any]:
        """Return ``quantization_config``; layers that differ are named in ``dynamic``."""
        common = most_common(layers)
        dynamic: dict[str, dict[str, Any]] = {
            f"-:{_pattern(path)}": {} for path in with_fused(path for path in dense if path != "lm_head")
        }
        formats = {(layer.bits, layer.group_size) for layer in layers.values()}
        for bits, group_size in sorted(formats - {common}):
            paths = (
                path for path, layer in layers.items() if (layer.bits, layer.group_size) == (bits, group_size)
            )
            for path in with_fused(paths):
                dynamic[f"+:{_pattern(path)}"] = {"bits": bits, "group_size": group_size}
        return {
            "quant_method": self.method,
            "bits": common[0],
            "group_size": common[1],
            "desc_act": False,
            "sym": False,
            "lm_head": False,
            "true_sequential": True,
            "checkpoint_format": self._checkpoint_format,
            "pack_dtype": "int32",
            **({"dynamic": dynamic} if dynamic else {}),
            "meta": {"quantizer": [f"efficientai_toolkit:{__version__}"]},
        }


def _pattern(path: str) -> str:
    return f"^{re.escape(path)}$"
