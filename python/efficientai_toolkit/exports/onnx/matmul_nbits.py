"""Weights in blocks, multiplied by onnxruntime's operator MatMulNBits."""

from typing import Any

from efficientai_toolkit.exports import blocks
from efficientai_toolkit.exports.onnx.graph import CONTRIB, Graph
from efficientai_toolkit.exports.onnx.linears import DenseLinears, Linears
from efficientai_toolkit.exports.parameters import EMBEDDINGS, HEAD, Parameters


class BlockLinears(Linears):
    """Quantized weights keep their codes; dense ones are rounded as MLX does, or stay as they are."""

    def __init__(
        self,
        graph: Graph,
        parameters: Parameters,
        *,
        bits: int,
        group_size: int,
        accuracy_level: int,
        keeps_dense: bool,
    ) -> None:
        super().__init__(graph, parameters)
        self._bits = bits
        self._group_size = group_size
        self._accuracy_level = accuracy_level
        self._keeps_dense = keeps_dense
        self._dense = DenseLinears(graph, parameters)
        self._sums: dict[tuple[str, int], str] = {}

    def product(self, path: str, x: str) -> str:
        """Add ``x @ weight.T``."""
        if self._stays_dense(path):
            return self._dense.product(path, x)
        self._write(path)
        return self._multiply(path, x, f"{path}.product")

    def embed(self, ids: str) -> str:
        """Add rows of the table, whose bytes the output head shares."""
        graph, path = self.graph, EMBEDDINGS
        if self._stays_dense(path):
            return self._dense.embed(ids)
        bits, size = self._write(path)
        rows, columns = self.parameters.size(path)
        flat = graph.reshaped(f"{path}.rows_of_codes", (rows, columns * bits // 8), f"{path}.codes")
        if not self.parameters.tied:
            del graph.initializers[f"{path}.codes"]
        names = [flat, ids, f"{path}.scales", *self._zero_points(path)]
        attributes: dict[str, Any] = {"bits": bits, "block_size": size, "gather_axis": 0, "quantize_axis": 1}
        y = graph.op("GatherBlockQuantized", *names, name=f"{path}.rows", domain=CONTRIB, **attributes)
        if not self._has_offsets(path):
            return y
        # Offsets are stored as the head needs them, a row of each block: [blocks, batch, time].
        offsets = graph.op("Gather", f"{path}.offsets", ids, name=f"{path}.offsets_of_rows", axis=1)
        offsets = graph.op("Transpose", offsets, name=f"{path}.offsets_last", perm=[1, 2, 0])
        last = graph.constant(f"{path}.last", [3])
        offsets = graph.op("Unsqueeze", offsets, last, name=f"{path}.offsets_of_blocks")
        split = graph.constant(f"{path}.blocks", [0, 0, -1, size])
        y = graph.op("Reshape", y, split, name=f"{path}.in_blocks")
        y = graph.op("Add", y, offsets, name=f"{path}.shifted")
        whole = graph.constant(f"{path}.whole", [0, 0, columns])
        return graph.op("Reshape", y, whole, name=f"{path}.shifted_rows")

    def tied_head(self, x: str) -> str:
        """Add the product with the table."""
        if self._stays_dense(EMBEDDINGS):
            return self._dense.tied_head(x)
        return self._multiply(EMBEDDINGS, x, f"{HEAD}.product")

    def _stays_dense(self, path: str) -> bool:
        return self._keeps_dense and path not in self.parameters.formats

    def _format(self, path: str) -> tuple[int, int]:
        """Return bits of stored codes, and the size of a block."""
        rounded = ("affine", self._bits, self._group_size)
        _, bits, size = self.parameters.formats.get(path, rounded)
        return blocks.CONTAINERS[bits], size

    def _write(self, path: str) -> tuple[int, int]:
        """Write the tensors of a layer; return its format."""
        if path in self.parameters.formats:
            parts: Any = self.parameters.take_parts(path)
            bits = self.parameters.formats[path][1]
        else:
            bits = self._bits
            matrix = self.parameters.take_matrix(path)
            parts = blocks.quantize(matrix, bits=bits, group_size=self._group_size)
        converted = blocks.from_mlx(*parts, bits=bits)
        tensors: dict[str, Any] = {
            "codes": converted.codes,
            "scales": converted.scales,
            "zero_points": converted.zero_points,
            "offsets": converted.offsets,
        }
        for name, array in tensors.items():
            if array is not None:
                self.graph.weight(f"{path}.{name}", array)
        return self._format(path)

    def _has_offsets(self, path: str) -> bool:
        return f"{path}.offsets" in self.graph.initializers

    def _zero_points(self, path: str) -> list[str]:
        return [] if self._has_offsets(path) else [f"{path}.zero_points"]

    def _multiply(self, path: str, x: str, name: str) -> str:
        graph = self.graph
        bits, size = self._format(path)
        rows, columns = self.parameters.size(path)
        names = [x, f"{path}.codes", f"{path}.scales", *self._zero_points(path)]
        attributes = {
            "K": columns, "N": rows, "bits": bits, "block_size": size, "accuracy_level": self._accuracy_level,
        }  # fmt: skip
        shifted = self._has_offsets(path)
        main = f"{name}.codes" if shifted else name
        y = graph.op("MatMulNBits", *names, name=main, domain=CONTRIB, **attributes)
        if not shifted:
            return y
        rest = graph.op("MatMul", self._block_sums(x, size), f"{path}.offsets", name=f"{name}.offsets")
        return graph.op("Add", y, rest, name=name)

    def _block_sums(self, x: str, size: int) -> str:
        """Add the sums of ``x`` over the columns of each block, once for all layers that read it."""
        if (x, size) not in self._sums:
            graph = self.graph
            split = graph.constant(f"blocks_of_{size}", [0, 0, -1, size])
            parts = graph.op("Reshape", x, split, name=f"{x}.blocks_of_{size}")
            last = graph.constant("last_of_4", [3])
            self._sums[x, size] = graph.op("ReduceSum", parts, last, name=f"{x}.sums_of_{size}", keepdims=0)
        return self._sums[x, size]
