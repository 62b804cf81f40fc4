"""Weights and activations in 8 bits, in the standard operators that runtimes fuse to integer products.

Weights have a scale per output channel; activations get theirs while the model runs (dynamic quantization),
so that no calibration is needed.
"""

import numpy as np

from efficientai_toolkit.exports.onnx.graph import Graph
from efficientai_toolkit.exports.onnx.linears import Linears
from efficientai_toolkit.exports.parameters import EMBEDDINGS, HEAD, Parameters


class QdqLinears(Linears):
    """``DynamicQuantizeLinear`` → ``DequantizeLinear`` → ``MatMul`` ← ``DequantizeLinear``."""

    def __init__(self, graph: Graph, parameters: Parameters) -> None:
        super().__init__(graph, parameters)
        self._activations: dict[str, str] = {}

    def product(self, path: str, x: str) -> str:
        """Add ``x @ weight.T``."""
        self._write(path)
        return self._multiply(path, x, f"{path}.product")

    def embed(self, ids: str) -> str:
        """Add columns of the transposed table, which the output head shares."""
        graph, path = self.graph, EMBEDDINGS
        self._write(path)
        # [hidden, batch, time]
        codes = graph.op("Gather", f"{path}.codes", ids, name=f"{path}.columns", axis=1)
        codes = graph.op("Transpose", codes, name=f"{path}.rows_of_codes", perm=[1, 2, 0])
        numbers = graph.op("Cast", codes, name=f"{path}.numbers", to=1)
        scales = graph.op("Gather", f"{path}.scales", ids, name=f"{path}.scales_of_rows")
        last = graph.constant(f"{path}.last", [2])
        scales = graph.op("Unsqueeze", scales, last, name=f"{path}.factors")
        return graph.op("Mul", numbers, scales, name=f"{path}.rows")

    def tied_head(self, x: str) -> str:
        """Add the product with the table."""
        return self._multiply(EMBEDDINGS, x, f"{HEAD}.product")

    def _write(self, path: str) -> None:
        matrix = self.parameters.take_matrix(path)
        scales = np.abs(matrix).max(axis=1) / np.float32(127)
        # A row of zeros has codes of zero whatever its scale.
        codes = np.rint(matrix / np.where(scales == 0, 1, scales)[:, None]).astype(np.int8)
        self.graph.weight(f"{path}.codes", codes.T)
        self.graph.weight(f"{path}.scales", scales)

    def _multiply(self, path: str, x: str, name: str) -> str:
        parts = [f"{path}.{part}" for part in ("codes", "scales")]
        weight = self.graph.op("DequantizeLinear", *parts, name=f"{name}.weight", axis=1)
        return self.graph.op("MatMul", self._quantized(x), weight, name=name)

    def _quantized(self, x: str) -> str:
        """Add ``x`` rounded to 8 bits, once for all layers that read it."""
        if x not in self._activations:
            names = [f"{x}.{part}" for part in ("codes", "scale", "zero_point")]
            self.graph.ops("DynamicQuantizeLinear", x, outputs=names)
            self._activations[x] = self.graph.op("DequantizeLinear", *names, name=f"{x}.rounded")
        return self._activations[x]
