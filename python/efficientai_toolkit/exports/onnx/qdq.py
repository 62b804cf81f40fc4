"""Weights in 8 bits, a scale per output channel, in the standard operators that every runtime knows.

Activations stay numbers. One scale for all of them, as QuantizeLinear and DynamicQuantizeLinear have it,
loses the tokens beside a large one, and half of SmolLM2's predictions with them. onnxruntime fuses each pair
of operators on CPUs to a product that rounds activations block by block.
"""

import numpy as np

from efficientai_toolkit.exports.onnx.linears import Linears
from efficientai_toolkit.exports.parameters import EMBEDDINGS, HEAD


class QdqLinears(Linears):
    """``MatMul`` with the output of ``DequantizeLinear``."""

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
        # The same bytes under a name of its own: what has two readers is not fused.
        tokens, size = self.parameters.size(EMBEDDINGS)
        self.graph.reshaped(f"{HEAD}.codes", (size, tokens), f"{EMBEDDINGS}.codes")
        self.graph.reshaped(f"{HEAD}.scales", (tokens,), f"{EMBEDDINGS}.scales")
        return self._multiply(HEAD, x, f"{HEAD}.product")

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
        return self.graph.op("MatMul", x, weight, name=name)
