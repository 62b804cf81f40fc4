"""Linear layers and token embeddings, in a number format that subclasses choose."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.onnx.graph import CONTRIB, Graph
from efficientai_toolkit.exports.parameters import EMBEDDINGS, HEAD, Parameters


class Linears(ABC):
    """Adds the layers of a model to a graph; ``dtype`` is that of activations."""

    dtype: ClassVar[str] = "float32"

    def __init__(self, graph: Graph, parameters: Parameters) -> None:
        self.graph = graph
        self.parameters = parameters

    @abstractmethod
    def product(self, path: str, x: str) -> str:
        """Add ``x @ weight.T``."""

    @abstractmethod
    def embed(self, ids: str) -> str:
        """Add the rows of the token embeddings that ``ids`` name, ``[batch, time, hidden]``."""

    @abstractmethod
    def tied_head(self, x: str) -> str:
        """Add the product with the token embeddings, after :meth:`embed`."""

    def linear(self, path: str, x: str) -> str:
        """Add a layer with its bias."""
        y = self.product(path, x)
        if f"{path}.bias" not in self.parameters:
            return y
        bias = self.graph.weight(f"{path}.bias", self.vector(f"{path}.bias"))
        return self.graph.op("Add", y, bias, name=f"{path}.biased")

    def head(self, x: str) -> str:
        """Add the output head."""
        return self.tied_head(x) if self.parameters.tied else self.linear(HEAD, x)

    def vector(self, name: str, offset: float = 0.0) -> "np.ndarray":
        """Return a parameter of one dimension, plus ``offset``, as numbers that activations have."""
        return (self.parameters.take(name) + np.float32(offset)).astype(self.dtype)


class DenseLinears(Linears):
    """Weights in the data type of activations."""

    def product(self, path: str, x: str) -> str:
        """Add ``x @ weight.T``; the weight is stored transposed, as the operator takes it."""
        weight = self._narrow(path).T
        return self.graph.op("MatMul", x, self.graph.weight(f"{path}.weight", weight), name=f"{path}.product")

    def embed(self, ids: str) -> str:
        """Add rows of the table."""
        table = self.graph.weight(f"{EMBEDDINGS}.weight", self._narrow(EMBEDDINGS))
        return self.graph.op("Gather", table, ids, name=f"{EMBEDDINGS}.rows")

    def tied_head(self, x: str) -> str:
        """Add the product with the same table, of which there is no transposed copy."""
        return self.graph.op(
            "FusedMatMul", x, f"{EMBEDDINGS}.weight", name=f"{HEAD}.product", domain=CONTRIB, transB=1
        )

    def _narrow(self, path: str) -> "np.ndarray":
        matrix = self.parameters.take_matrix(path)
        if np.abs(matrix).max(initial=0) > np.finfo(self.dtype).max:
            message = f"weights of {path} are too large for {self.dtype}: choose f32"
            raise ConfigError(message)
        return matrix.astype(self.dtype, copy=False)


class HalfLinears(DenseLinears):
    """Weights and activations in float16."""

    dtype = "float16"
