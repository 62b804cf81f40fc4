"""Checkpoints of compressed-tensors (https://github.com/vllm-project/compressed-tensors).

``pack-quantized``: ``weight_packed`` is ``[out, in*bits/32]``, ``weight_scale`` ``[out, groups]``,
``weight_zero_point`` ``[out*bits/32, groups]`` and ``weight_shape`` ``[2]``. ``int-quantized``: ``weight`` is
int8, ``[out, in]``, and ``weight_scale`` ``[out, 1]``; activations are rounded to 8 bits at run time.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from efficientai_toolkit.exports.folders import words
from efficientai_toolkit.exports.folders.layout import Layer, Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from efficientai_toolkit.exports.folders.grid import Grid


class PackQuantizedLayout(Layout):
    """4 or 8 bits, with a zero point for each group."""

    method: ClassVar[str] = "compressed-tensors"
    bits: ClassVar[tuple[int, ...]] = (4, 8)

    def fits(self, layer: Layer) -> bool:
        """Return whether inputs and outputs fill whole words."""
        return layer.rows * layer.bits % 32 == 0 and layer.columns * layer.bits % 32 == 0

    def pack(self, grid: "Grid") -> "dict[str, NDArray[Any]]":
        """Return ``weight_packed``, ``weight_scale``, ``weight_zero_point`` and ``weight_shape``."""
        return {
            "weight_packed": words.pack(grid.codes, grid.bits),
            "weight_scale": grid.scales,
            "weight_zero_point": np.ascontiguousarray(words.pack(grid.zero_points.T, grid.bits).T),
            "weight_shape": np.array(grid.codes.shape, np.int64),
        }

    def unpack(self, tensors: "Mapping[str, NDArray[Any]]", layer: Layer) -> "NDArray[np.float32]":
        """Return the weight that tensors stand for, ``[rows, columns]``."""
        zero_points = words.unpack(tensors["weight_zero_point"].T, layer.bits).T
        steps = words.unpack(tensors["weight_packed"], layer.bits).astype(np.float32)
        steps -= np.repeat(zero_points, layer.group_size, axis=1)
        steps *= np.repeat(tensors["weight_scale"], layer.group_size, axis=1)
        return steps

    def describe(self, layers: Mapping[str, Layer], dense: list[str]) -> dict[str, Any]:
        """Return ``quantization_config``: a group of layers for each format."""
        formats = sorted({(layer.bits, layer.group_size) for layer in layers.values()})
        groups: dict[str, Any] = {}
        for index, (bits, group_size) in enumerate(formats):
            paths = [
                path for path, layer in layers.items() if (layer.bits, layer.group_size) == (bits, group_size)
            ]
            weights = _arguments(bits, symmetric=False, strategy="group", group_size=group_size)
            groups[f"group_{index}"] = {
                "targets": ["Linear"] if len(formats) == 1 else paths,
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        return _configuration("pack-quantized", groups, dense)


class IntQuantizedLayout(Layout):
    """8 bits without zero points, a scale for each row, and activations of 8 bits."""

    method: ClassVar[str] = "compressed-tensors"
    bits: ClassVar[tuple[int, ...]] = (8,)
    by_row: ClassVar[bool] = True

    def fits(self, layer: Layer) -> bool:
        """Any layer does: each code is a number of its own."""
        del layer
        return True

    def pack(self, grid: "Grid") -> "dict[str, NDArray[Any]]":
        """Return ``weight`` and ``weight_scale``."""
        codes = (grid.codes.astype(np.int16) - grid.zero_points).astype(np.int8)
        return {"weight": codes, "weight_scale": grid.scales}

    def unpack(self, tensors: "Mapping[str, NDArray[Any]]", layer: Layer) -> "NDArray[np.float32]":
        """Return the weight that tensors stand for, ``[rows, columns]``."""
        del layer
        weight: NDArray[np.float32] = tensors["weight"].astype(np.float32) * tensors["weight_scale"]
        return weight

    def describe(self, layers: Mapping[str, Layer], dense: list[str]) -> dict[str, Any]:
        """Return ``quantization_config``."""
        del layers
        group = {
            "targets": ["Linear"],
            "weights": _arguments(8, symmetric=True, strategy="channel"),
            "input_activations": _arguments(8, symmetric=True, strategy="token", dynamic=True),
            "output_activations": None,
        }
        return _configuration("int-quantized", {"group_0": group}, dense)


def _arguments(
    bits: int, *, symmetric: bool, strategy: str, group_size: int | None = None, dynamic: bool = False
) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": dynamic,
        "observer": None if dynamic else "minmax",
        "observer_kwargs": {},
        "actorder": None,
        "block_structure": None,
    }


def _configuration(name: str, groups: dict[str, Any], dense: list[str]) -> dict[str, Any]:
    return {
        "quant_method": PackQuantizedLayout.method,
        "format": name,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": dense,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
