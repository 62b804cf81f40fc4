"""The operators that decoders need, with the shapes of what they return."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.exports.tflite.graph import Graph, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Operators:
    """Adds operators to a graph; numbers are constants that are added once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._constants: dict[tuple[str, bytes], Tensor] = {}

    def number(self, value: float) -> Tensor:
        """Return a constant."""
        return self._constant(np.array(value, np.float32))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum."""
        return self._pair("ADD", x, y, options="AddOptions")

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the product of elements."""
        return self._pair("MUL", x, y, options="MulOptions")

    def scale(self, x: Tensor, factor: float) -> Tensor:
        """Return ``factor * x``."""
        return self.multiply(x, self.number(factor))

    def silu(self, x: Tensor) -> Tensor:
        """Return ``x * sigmoid(x)``."""
        return self.multiply(x, self.graph.op("LOGISTIC", x, shape=x.shape))

    def gelu(self, x: Tensor, *, approximate: bool) -> Tensor:
        """Return the GELU."""
        return self.graph.op("GELU", x, shape=x.shape, options="GeluOptions", approximate=approximate)

    def cap(self, x: Tensor, limit: float) -> Tensor:
        """Return ``limit * tanh(x / limit)``."""
        scaled = self.scale(x, 1 / limit)
        return self.scale(self.graph.op("TANH", scaled, shape=x.shape), limit)

    def softmax(self, x: Tensor) -> Tensor:
        """Return shares along the last axis."""
        return self.graph.op("SOFTMAX", x, shape=x.shape, options="SoftmaxOptions", beta=1.0)

    def rms_norm(self, x: Tensor, epsilon: float, weight: Tensor) -> Tensor:
        """Return the norm of the last axis."""
        means = self.graph.op(
            "MEAN", self.multiply(x, x), self._integers([-1]),
            shape=(*x.shape[:-1], 1), options="ReducerOptions", keepDims=True,
        )  # fmt: skip
        factors = self.graph.op("RSQRT", self.add(means, self.number(epsilon)), shape=means.shape)
        return self.multiply(self.multiply(x, factors), weight)

    def reshape(self, x: Tensor, *shape: int, dtype: str = "float32") -> Tensor:
        """Return the same numbers in another shape, of which one size may be -1."""
        rest = -prod(shape)
        sizes = tuple(prod(x.shape) // rest if size == -1 else size for size in shape)
        if sizes == x.shape:
            return x
        return self.graph.op(
            "RESHAPE", x, self._integers(sizes),
            shape=sizes, dtype=dtype, options="ReshapeOptions", newShape=list(sizes),
        )  # fmt: skip

    def transpose(self, x: Tensor, *axes: int) -> Tensor:
        """Return axes in another order."""
        shape = tuple(x.shape[axis] for axis in axes)
        return self.graph.op("TRANSPOSE", x, self._integers(axes), shape=shape, options="TransposeOptions")

    def split(self, x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Return parts of the last axis."""
        parts: list[Tensor] = []
        start = 0
        for size in sizes:
            begin, shape = [0] * (len(x.shape) - 1) + [start], (*x.shape[:-1], size)
            place = (self._integers(begin), self._integers(shape))
            parts.append(self.graph.op("SLICE", x, *place, shape=shape, options="SliceOptions"))
            start += size
        return parts

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        """Return parts behind each other along the last axis."""
        shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
        return self.graph.op("CONCATENATION", *parts, shape=shape, options="ConcatenationOptions", axis=-1)

    def matmul(self, x: Tensor, y: Tensor, *, transposed: bool = False) -> Tensor:
        """Return ``x @ y``, or ``x @ y.T``, for each matrix of the first axis."""
        columns = y.shape[-2 if transposed else -1]
        return self.graph.op(
            "BATCH_MATMUL", x, y,
            shape=(*x.shape[:-1], columns), options="BatchMatMulOptions", adjY=transposed,
        )  # fmt: skip

    def _pair(self, kind: str, x: Tensor, y: Tensor, *, options: str) -> Tensor:
        return self.graph.op(kind, x, y, shape=np.broadcast_shapes(x.shape, y.shape), options=options)

    def _integers(self, values: Sequence[int]) -> Tensor:
        return self._constant(np.array(values, np.int32))

    def _constant(self, array: "NDArray[Any]") -> Tensor:
        key = (str(array.dtype), array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.graph.constant(f"constant_{len(self._constants)}", array)
        return self._constants[key]
