"""Attention over all tokens at once."""

from efficientai_toolkit.exports.outline import Block, Rope
from efficientai_toolkit.exports.tflite.graph import Tensor
from efficientai_toolkit.exports.tflite.operators import Operators
from efficientai_toolkit.exports.tflite.positions import Positions
from efficientai_toolkit.exports.tflite.weights import Weights


class Attention:
    """Adds the attention of one block."""

    def __init__(
        self, operators: Operators, weights: Weights, positions: Positions, block: Block, index: int
    ) -> None:
        self._operators = operators
        self._weights = weights
        self._positions = positions
        self._block = block
        self._path = f"model.layers.{index}.self_attn"

    def build(self, x: Tensor) -> Tensor:
        """Add everything between ``x``, ``[length, hidden]``, and the output projection, included."""
        operators, block = self._operators, self._block
        queries, keys, values = self._project(x)
        queries = operators.scale(self._heads(queries, block.heads, "q_norm"), block.scale)
        keys = self._heads(keys, block.kv_heads, "k_norm")
        values = self._heads(values, block.kv_heads, None)
        if block.rope is not None:
            queries, keys = (self._rotate(each, block.rope) for each in (queries, keys))
        attended = self._attend(queries, keys, values)
        attended = operators.transpose(attended, 1, 0, 2)
        return self._weights.linear(
            f"{self._path}.o_proj", operators.reshape(attended, -1, block.heads * block.head_dim)
        )

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        block, linear = self._block, self._weights.linear
        if f"{self._path}.qkv_proj.weight" in self._weights.parameters:
            sizes = [count * block.head_dim for count in (block.heads, block.kv_heads, block.kv_heads)]
            queries, keys, values = self._operators.split(linear(f"{self._path}.qkv_proj", x), sizes)
        else:
            queries, keys, values = (linear(f"{self._path}.{name}_proj", x) for name in "qkv")
        return queries, keys, values

    def _heads(self, x: Tensor, heads: int, norm: str | None) -> Tensor:
        """Add ``[heads, length, head_dim]``, with a norm of each head if the model has it."""
        operators, path = self._operators, f"{self._path}.{norm}.weight"
        x = operators.reshape(x, -1, heads, self._block.head_dim)
        if norm is not None and path in self._weights.parameters:
            weight = self._weights.vector(path, self._block.norm_offset)
            x = operators.rms_norm(x, self._block.norm_eps, weight)
        return operators.transpose(x, 1, 0, 2)

    def _rotate(self, x: Tensor, rope: Rope) -> Tensor:
        """Add the rotation of elements ``i`` and ``pairs + i``; what is behind all pairs stays."""
        operators, pairs = self._operators, len(rope.frequencies)
        rest = self._block.head_dim - 2 * pairs
        own, swapped = self._positions.rotation(rope, self._block.head_dim)
        first, second, *others = operators.split(x, [pairs, pairs, *([rest] if rest else [])])
        turned = operators.concatenate([second, first, *others])
        return operators.add(operators.multiply(x, own), operators.multiply(turned, swapped))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        operators, block = self._operators, self._block
        length = queries.shape[1]
        # Queries that share keys stand behind each other, so that keys are not repeated.
        shared = operators.reshape(queries, block.kv_heads, -1, block.head_dim)
        scores = operators.matmul(shared, keys, transposed=True)
        scores = operators.reshape(scores, block.heads, length, length)
        if block.softcap is not None:
            scores = operators.cap(scores, block.softcap)
        shares = operators.softmax(operators.add(scores, self._positions.mask(block.window)))
        shares = operators.reshape(shares, block.kv_heads, -1, length)
        attended = operators.matmul(shares, values)
        return operators.reshape(attended, block.heads, length, block.head_dim)
