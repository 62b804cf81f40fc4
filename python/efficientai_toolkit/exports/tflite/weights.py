"""Weights of a graph: numbers, or codes with a scale for each row."""

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.parameters import EMBEDDINGS, HEAD, Parameters
from efficientai_toolkit.exports.tflite.graph import Graph, Tensor
from efficientai_toolkit.exports.tflite.rounding import round_blocks, round_rows
from efficientai_toolkit.exports.types import BITS, is_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CODED = 13
"""Version of the operator that multiplies codes with a scale for each row or block."""

_NUMBERS = {"f32": "float32", "f16": "float16"}


class Weights:
    """Adds linear layers and token embeddings in a number format.

    With ``rounds_activations``, products with codes are those of integers: the runtime rounds each row of
    activations to 8 bits. Otherwise codes become numbers first. Codes of 4 bits have a scale for each
    ``block_size`` columns, or for each row if that is ``None``.
    """

    def __init__(
        self,
        graph: Graph,
        parameters: Parameters,
        *,
        kind: str,
        rounds_activations: bool,
        block_size: int | None,
    ) -> None:
        self.parameters = parameters
        self.types: dict[str, int] = {}
        """Number of tensors of each type."""
        self._graph = graph
        self._kind = kind
        self._rounds_activations = rounds_activations
        self._block_size = block_size
        self._matrices: dict[str, Tensor] = {}
        self._numbers: dict[str, Tensor] = {}

    def size(self) -> int:
        """Return the bytes of all of them."""
        return sum(
            self._size(name.removesuffix(".weight")) if is_matrix(name) else 4 * prod(shape)
            for name, shape in self.parameters.shapes.items()
            if not name.endswith((".scales", ".biases"))
        )

    def linear(self, path: str, x: Tensor) -> Tensor:
        """Add a layer with its bias."""
        stored = self._matrix(path)
        is_coded = self._kind in BITS and self._rounds_activations
        has_bias = f"{path}.bias" in self.parameters
        return self._graph.op(
            "FULLY_CONNECTED",
            x,
            stored if self._kind == "f32" or is_coded else self._decoded(path, stored),
            self.vector(f"{path}.bias") if has_bias else None,
            shape=(x.shape[0], stored.shape[0]),
            version=_CODED if is_coded else 1,
            options="FullyConnectedOptions",
            asymmetricQuantizeInputs=is_coded,
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Add the rows of the token embeddings that ``ids`` name."""
        table = self._matrix(EMBEDDINGS)
        shape = (*ids.shape, table.shape[1])
        if self._kind == "f16":
            rows = self._graph.op("GATHER", table, ids, shape=shape, dtype="float16", options="GatherOptions")
            return self._dequantize(rows)
        version = 4 if self._kind in BITS else 1
        return self._graph.op("EMBEDDING_LOOKUP", ids, table, shape=shape, version=version)

    def head(self, x: Tensor) -> Tensor:
        """Add the output head."""
        return self.linear(EMBEDDINGS if self.parameters.tied else HEAD, x)

    def vector(self, name: str, offset: float = 0.0) -> Tensor:
        """Add a parameter of one dimension, plus ``offset``."""
        self._count("f32")
        return self._graph.constant(name, self.parameters.take(name) + np.float32(offset))

    def _matrix(self, path: str) -> Tensor:
        """Return a weight as it is stored, which is once."""
        if path not in self._matrices:
            self._matrices[path] = self._add(path)
        return self._matrices[path]

    def _add(self, path: str) -> Tensor:
        name, matrix = f"{path}.weight", self.parameters.take_matrix(path)
        if self._kind not in BITS:
            self._count(self._kind)
            return self._graph.constant(name, self._narrow(path, matrix))
        bits = self._bits(path)
        self._count(f"int{bits}")
        if bits == BITS["int8"] or self._block_size is None:
            found = round_rows(matrix, bits)
        else:
            self._check_range(path, matrix, "float16", "int8")
            found = round_blocks(matrix, bits, self._block_size)
        rows, columns = matrix.shape
        return self._graph.coded(name, found.codes, (rows, columns), found.scales, bits)

    def _bits(self, path: str) -> int:
        """Return the bits of a matrix. Errors of the embeddings and the head count most."""
        # Rows of codes begin at bytes, and hold whole blocks.
        rest = self.parameters.size(path)[1] % (self._block_size or 2)
        return BITS["int8"] if path in (EMBEDDINGS, HEAD) or rest else BITS[self._kind]

    def _size(self, path: str) -> int:
        rows, columns = self.parameters.size(path)
        if self._kind in BITS:
            # Scales, and zero points of rows.
            details = 2 * columns // self._block_size if self._block_size else 12
            return rows * (columns * self._bits(path) // 8 + max(details, 12))
        return rows * columns * np.dtype(_NUMBERS[self._kind]).itemsize

    def _narrow(self, path: str, matrix: "NDArray[np.float32]") -> "NDArray[np.floating]":
        dtype = _NUMBERS[self._kind]
        self._check_range(path, matrix, dtype, "f32")
        return matrix.astype(dtype, copy=False)

    def _check_range(self, path: str, matrix: "NDArray[np.float32]", dtype: str, other: str) -> None:
        if np.abs(matrix).max(initial=0) > np.finfo(dtype).max:
            message = f"weights of {path} are too large for {dtype}: choose {other}"
            raise ConfigError(message)

    def _decoded(self, path: str, stored: Tensor) -> Tensor:
        """Add the numbers of a weight; runtimes compute them once."""
        if path not in self._numbers:
            self._numbers[path] = self._dequantize(stored)
        return self._numbers[path]

    def _dequantize(self, x: Tensor) -> Tensor:
        # Scales of rows came with 5, 4 bits with 6.
        version = 6 if self._kind in BITS else 3
        return self._graph.op("DEQUANTIZE", x, shape=x.shape, version=version, options="DequantizeOptions")

    def _count(self, kind: str) -> None:
        self.types[kind] = self.types.get(kind, 0) + 1
