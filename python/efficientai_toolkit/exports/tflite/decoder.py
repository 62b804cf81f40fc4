"""The graph of a decoder that reads a fixed number of tokens at once.

Shorter texts are filled up at their end: no token sees those behind it. The input is ``input_ids``,
``[1, length]`` in int32, the output ``logits``, ``[1, length, vocabulary]``.
"""

from efficientai_toolkit.exports.outline import Block, Outline
from efficientai_toolkit.exports.tflite.attention import Attention
from efficientai_toolkit.exports.tflite.graph import Graph, Tensor
from efficientai_toolkit.exports.tflite.operators import Operators
from efficientai_toolkit.exports.tflite.positions import Positions
from efficientai_toolkit.exports.tflite.weights import Weights

IDS, LOGITS = "input_ids", "logits"
"""Names of the input and the output."""


class Decoder:
    """Adds a decoder to a graph."""

    def __init__(self, graph: Graph, weights: Weights, outline: Outline) -> None:
        self._graph = graph
        self._weights = weights
        self._parameters = weights.parameters
        self._operators = Operators(graph)
        self._positions = Positions(self._operators, outline.context_length)
        self._outline = outline

    def build(self) -> None:
        """Add everything, from token ids to logits."""
        operators, outline = self._operators, self._outline
        length = outline.context_length
        ids = self._graph.input(IDS, (1, length), "int32")
        x = self._weights.embed(operators.reshape(ids, length, dtype="int32"))
        if outline.embedding_scale is not None:
            x = operators.scale(x, outline.embedding_scale)
        for index, block in enumerate(outline.blocks):
            x = self._block(index, block, x)
        logits = self._weights.head(self._norm("model.norm", outline.blocks[-1], x))
        if outline.softcap is not None:
            logits = operators.cap(logits, outline.softcap)
        self._graph.output(LOGITS, operators.reshape(logits, 1, length, -1))

    def _block(self, index: int, block: Block, x: Tensor) -> Tensor:
        add, path = self._operators.add, f"model.layers.{index}"
        attention = Attention(self._operators, self._weights, self._positions, block, index)
        attended = attention.build(self._norm(f"{path}.input_layernorm", block, x))
        # Gemma has norms behind its layers too.
        if f"{path}.pre_feedforward_layernorm.weight" in self._parameters:
            x = add(x, self._norm(f"{path}.post_attention_layernorm", block, attended))
            normed = self._norm(f"{path}.pre_feedforward_layernorm", block, x)
            transformed = self._feed_forward(f"{path}.mlp", block, normed)
            return add(x, self._norm(f"{path}.post_feedforward_layernorm", block, transformed))
        x = add(x, attended)
        normed = self._norm(f"{path}.post_attention_layernorm", block, x)
        return add(x, self._feed_forward(f"{path}.mlp", block, normed))

    def _norm(self, path: str, block: Block, x: Tensor) -> Tensor:
        weight = self._weights.vector(f"{path}.weight", block.norm_offset)
        return self._operators.rms_norm(x, block.norm_eps, weight)

    def _feed_forward(self, path: str, block: Block, x: Tensor) -> Tensor:
        operators, linear = self._operators, self._weights.linear
        if f"{path}.gate_up_proj.weight" in self._parameters:
            both = linear(f"{path}.gate_up_proj", x)
            gate, up = operators.split(both, [both.shape[-1] // 2] * 2)
        else:
            gate, up = (linear(f"{path}.{name}_proj", x) for name in ("gate", "up"))
        if block.activation == "silu":
            activated = operators.silu(gate)
        else:
            activated = operators.gelu(gate, approximate=block.activation == "gelu_tanh")
        return linear(f"{path}.down_proj", operators.multiply(activated, up))
