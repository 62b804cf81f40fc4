"""Weights of a program: numbers, or codes with scales or palettes that are decoded when it is loaded."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports import blocks
from efficientai_toolkit.exports.coreml.blockwise import from_mlx, to_half
from efficientai_toolkit.exports.coreml.palettes import find_palettes
from efficientai_toolkit.exports.coreml.targets import TARGETS
from efficientai_toolkit.exports.parameters import Parameters
from efficientai_toolkit.exports.types import BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVELS = 127
"""Codes of 8 bits are the same numbers on both sides of zero."""


class Weights:
    """Adds the matrices of a model, one value for each however often it is used."""

    def __init__(
        self, parameters: Parameters, *, kind: str, target: str, group_size: int, keeps_dense: bool
    ) -> None:
        self.parameters = parameters
        self.types: dict[str, int] = {}
        """Number of tensors of each type."""
        self.rounded = 0
        """Blocks that were rounded again, because float16 has not their scales or offsets."""
        self._kind = kind
        self._has_blocks = TARGETS[target].has_blocks
        self._group_size = group_size
        self._keeps_dense = keeps_dense
        self._matrices: dict[str, Any] = {}

    def matrix(self, path: str) -> Any:
        """Return the value of a weight, ``[rows, columns]`` in float16."""
        if path not in self._matrices:
            self._matrices[path] = self._add(path)
        return self._matrices[path]

    def vector(self, name: str, offset: float = 0.0) -> Any:
        """Return the value of a parameter of one dimension, plus ``offset``."""
        return self.constant(name, self.parameters.take(name) + np.float32(offset))

    def constant(self, name: str, value: "NDArray[Any]") -> Any:
        """Return the value of numbers in float16.

        Raises
        ------
        ConfigError
            If they are too large.
        """
        mil: Any = import_module("coremltools.converters.mil").mil

        if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
            message = f"numbers of {name} are too large for float16, which Core ML computes in"
            raise ConfigError(message)
        self._count("f16")
        return mil.Builder.const(val=value.astype(np.float16), name=legal(name))

    def _add(self, path: str) -> Any:
        quantized = path in self.parameters.formats
        if self._kind == "palette4":
            return self._palette(path)
        if self._kind not in BITS or (self._keeps_dense and not quantized):
            return self.constant(f"{path}.weight", self.parameters.take_matrix(path))
        if self._kind == "int8" and not (quantized and self._has_blocks):
            return self._per_channel(path)
        return self._blockwise(path)

    def _per_channel(self, path: str) -> Any:
        """Add 8 bits with a scale for each row."""
        mil: Any = import_module("coremltools.converters.mil").mil

        matrix = self.parameters.take_matrix(path)
        scales = to_half(np.abs(matrix).max(axis=1) / np.float32(_LEVELS), path)
        # A row of zeros has codes of zero whatever its scale.
        steps = np.where(scales == 0, 1, scales).astype(np.float32)[:, None]
        codes = np.clip(np.rint(matrix / steps), -_LEVELS, _LEVELS).astype(np.int8)
        self._count("int8")
        name = legal(f"{path}.weight")
        if self._has_blocks:
            return mil.Builder.constexpr_blockwise_shift_scale(data=codes, scale=scales[:, None], name=name)
        return mil.Builder.constexpr_affine_dequantize(
            quantized_data=codes, scale=scales, zero_point=np.int8(0), axis=np.int32(0), name=name
        )

    def _blockwise(self, path: str) -> Any:
        """Add codes with a scale and an offset for each block of columns."""
        mil: Any = import_module("coremltools.converters.mil").mil
        types: Any = import_module("coremltools.converters.mil.mil").types

        if path in self.parameters.formats:
            bits = self.parameters.formats[path][1]
            parts: Any = self.parameters.take_parts(path)
        else:
            bits = BITS[self._kind]
            matrix = self.parameters.take_matrix(path)
            parts = blocks.quantize(matrix, bits=bits, group_size=self._group_size)
        found = from_mlx(*parts, bits=bits, path=path)
        self.rounded += found.rounded
        unsigned = types.np_uint4_dtype if found.bits == BITS["int4"] else np.dtype(np.uint8)
        whole = found.offsets.dtype == np.uint8
        self._count(f"int{found.bits}")
        return mil.Builder.constexpr_blockwise_shift_scale(
            data=found.codes.astype(unsigned),
            scale=found.scales,
            offset=found.offsets.astype(unsigned) if whole else found.offsets,
            name=legal(f"{path}.weight"),
        )

    def _palette(self, path: str) -> Any:
        """Add 16 numbers for each group of rows, or for all rows where the target knows no groups."""
        mil: Any = import_module("coremltools.converters.mil").mil
        types: Any = import_module("coremltools.converters.mil.mil").types

        found = find_palettes(self.parameters.take_matrix(path), grouped=self._has_blocks)
        self._count("palette4")
        name = legal(f"{path}.weight")
        if self._has_blocks:
            return mil.Builder.constexpr_lut_to_dense(
                indices=found.codes.astype(types.np_uint4_dtype),
                # [groups, one of columns, numbers, one element at a time]
                lut=found.numbers[:, None, :, None],
                name=name,
            )
        return mil.Builder.constexpr_lut_to_dense(
            indices=blocks.pack(found.codes.reshape(1, -1), 4).reshape(-1),
            lut=found.numbers[0],
            shape=np.array(found.codes.shape, np.uint32),
            name=name,
        )

    def _count(self, kind: str) -> None:
        self.types[kind] = self.types.get(kind, 0) + 1


def legal(name: str) -> str:
    """Return a name that MIL allows for the parameter called ``name``."""
    return name.replace(".", "_")
