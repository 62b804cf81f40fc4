"""The graph of a decoder with a KV cache, as onnxruntime-genai and optimum name its inputs and outputs."""

import numpy as np

from efficientai_toolkit.exports.onnx.graph import CONTRIB, Graph
from efficientai_toolkit.exports.onnx.linears import Linears
from efficientai_toolkit.exports.outline import Block, Outline, Rope
from efficientai_toolkit.exports.parameters import Parameters

_ACTIVATIONS = {"gelu": "none", "gelu_tanh": "tanh"}
"""Approximations of the operator Gelu."""


class Decoder:
    """Adds a decoder to a graph, whose residual stream is kept as a sum that is not computed yet."""

    def __init__(self, graph: Graph, parameters: Parameters, linears: Linears, outline: Outline) -> None:
        self.graph = graph
        self.parameters = parameters
        self.linears = linears
        self.outline = outline
        self._ropes: dict[Rope, tuple[str, str]] = {}

    def build(self) -> None:
        """Add everything, from token ids to logits."""
        graph, outline = self.graph, self.outline
        ids = graph.input("input_ids", "int64", ["batch_size", "sequence_length"])
        mask = graph.input("attention_mask", "int64", ["batch_size", "total_sequence_length"])
        lengths = self._lengths(mask)
        x = self.linears.embed(ids)
        if outline.embedding_scale is not None:
            scale = graph.constant("embedding_scale", outline.embedding_scale, self.linears.dtype)
            x = graph.op("Mul", x, scale, name="scaled_embeddings")
        delta = None
        for index, block in enumerate(outline.blocks):
            x, delta = self._block(index, block, x, delta, lengths)
        _, x = self._normed("model.norm", outline.blocks[-1], x, delta)
        self._logits(self.linears.head(x))

    def _lengths(self, mask: str) -> tuple[str, str]:
        """Add the index of the last token of each row, and the length of all of them with padding."""
        graph = self.graph
        one, axis = graph.constant("one", [1]), graph.constant("axis_of_time", [1])
        lengths = graph.op("ReduceSum", mask, axis, name="lengths", keepdims=0)
        last = graph.op("Sub", lengths, one, name="last_long")
        shape = graph.op("Shape", mask, name="mask_shape")
        index = graph.constant("index_of_time", 1)
        total = graph.op("Gather", shape, index, name="total_long")
        return (
            graph.op("Cast", last, name="seqlens_k", to=6),
            graph.op("Cast", total, name="total_sequence_length", to=6),
        )

    def _block(
        self, index: int, block: Block, x: str, delta: str | None, lengths: tuple[str, str]
    ) -> tuple[str, str]:
        """Add a block; the sum of what it returns is the residual stream behind it."""
        path = f"model.layers.{index}"
        x, normed = self._normed(f"{path}.input_layernorm", block, x, delta)
        attended = self._attention(index, block, normed, lengths)
        # Gemma has norms behind its layers too.
        if f"{path}.pre_feedforward_layernorm.weight" in self.parameters:
            attended = self._norm(f"{path}.post_attention_layernorm", block, attended)
            x, normed = self._normed(f"{path}.pre_feedforward_layernorm", block, x, attended)
            transformed = self._feed_forward(f"{path}.mlp", block, normed)
            return x, self._norm(f"{path}.post_feedforward_layernorm", block, transformed)
        x, normed = self._normed(f"{path}.post_attention_layernorm", block, x, attended)
        return x, self._feed_forward(f"{path}.mlp", block, normed)

    def _normed(self, path: str, block: Block, x: str, delta: str | None) -> tuple[str, str]:
        """Add ``x + delta`` and its norm; ``x`` itself without ``delta``."""
        if delta is None:
            return x, self._norm(path, block, x)
        weight = self._norm_weight(path, block)
        outputs = [f"{path}.output", "", "", f"{path}.sum"]
        self.graph.ops(
            "SkipSimplifiedLayerNormalization", x, delta, weight,
            outputs=outputs, domain=CONTRIB, epsilon=block.norm_eps,
        )  # fmt: skip
        return outputs[3], outputs[0]

    def _norm(self, path: str, block: Block, x: str) -> str:
        weight = self._norm_weight(path, block)
        return self.graph.op(
            "RMSNormalization", x, weight, name=f"{path}.output", axis=-1, epsilon=block.norm_eps
        )

    def _norm_weight(self, path: str, block: Block) -> str:
        name = f"{path}.weight"
        return self.graph.weight(name, self.linears.vector(name, block.norm_offset))

    def _attention(self, index: int, block: Block, x: str, lengths: tuple[str, str]) -> str:
        graph, path = self.graph, f"model.layers.{index}.self_attn"
        if f"{path}.qkv_proj.weight" in self.parameters:
            # All three in one: the operator takes them apart.
            projected = [self.linears.linear(f"{path}.qkv_proj", x), "", ""]
        else:
            projected = [self.linears.linear(f"{path}.{name}_proj", x) for name in "qkv"]
        for place, (name, heads) in enumerate((("q", block.heads), ("k", block.kv_heads))):
            if f"{path}.{name}_norm.weight" in self.parameters:
                projected[place] = self._head_norm(f"{path}.{name}_norm", block, projected[place], heads)
        cache: list[int | str] = ["batch_size", block.kv_heads, "past_sequence_length", block.head_dim]
        present = [cache[0], cache[1], "present_sequence_length", cache[3]]
        past: list[str] = []
        now: list[str] = []
        for kind in ("key", "value"):
            past.append(graph.input(f"past_key_values.{index}.{kind}", self.linears.dtype, cache))
            now.append(f"present.{index}.{kind}")
            graph.output(now[-1], self.linears.dtype, present)
        rotation = () if block.rope is None else self._tables(block.rope)
        attributes: dict[str, float] = {
            "num_heads": block.heads,
            "kv_num_heads": block.kv_heads,
            "scale": block.scale,
            "do_rotary": int(block.rope is not None),
        }
        if block.window is not None:
            attributes["local_window_size"] = block.window
        if block.softcap is not None:
            attributes["softcap"] = block.softcap
        attended = graph.ops(
            "GroupQueryAttention", *projected, *past, *lengths, *rotation,
            outputs=[f"{path}.attended", *now], domain=CONTRIB, **attributes,
        )  # fmt: skip
        return self.linears.linear(f"{path}.o_proj", attended)

    def _head_norm(self, path: str, block: Block, x: str, heads: int) -> str:
        """Add a norm of each head."""
        graph = self.graph
        split = graph.constant(f"{heads}_heads", [0, 0, heads, block.head_dim])
        y = graph.op("Reshape", x, split, name=f"{path}.heads")
        y = self._norm(path, block, y)
        merged = graph.constant(f"merged_{heads}_heads", [0, 0, heads * block.head_dim])
        return graph.op("Reshape", y, merged, name=f"{path}.merged")

    def _tables(self, rope: Rope) -> tuple[str, str]:
        """Add cosines and sines, once for all layers that have them in common."""
        if rope not in self._ropes:
            number, length = len(self._ropes), self.outline.context_length
            self._ropes[rope] = (
                self.graph.weight(f"cos_cache.{number}", rope.table(np.cos, length, self.linears.dtype)),
                self.graph.weight(f"sin_cache.{number}", rope.table(np.sin, length, self.linears.dtype)),
            )
        return self._ropes[rope]

    def _feed_forward(self, path: str, block: Block, x: str) -> str:
        graph = self.graph
        if f"{path}.gate_up_proj.weight" in self.parameters:
            both = self.linears.linear(f"{path}.gate_up_proj", x)
            gate, up = f"{path}.gate", f"{path}.up"
            graph.ops("Split", both, outputs=[gate, up], axis=-1, num_outputs=2)
        else:
            gate, up = (self.linears.linear(f"{path}.{name}_proj", x) for name in ("gate", "up"))
        if block.activation == "silu":
            sigmoid = graph.op("Sigmoid", gate, name=f"{path}.sigmoid")
            activated = graph.op("Mul", gate, sigmoid, name=f"{path}.activated")
        else:
            approximate = _ACTIVATIONS[block.activation]
            activated = graph.op("Gelu", gate, name=f"{path}.activated", approximate=approximate)
        return self.linears.linear(f"{path}.down_proj", graph.op("Mul", activated, up, name=f"{path}.gated"))

    def _logits(self, logits: str) -> None:
        graph = self.graph
        if self.linears.dtype != "float32":
            logits = graph.op("Cast", logits, name="wide_logits", to=1)
        if self.outline.softcap is not None:
            cap = graph.constant("softcap", self.outline.softcap, "float32")
            logits = graph.op("Div", logits, cap, name="logits_over_cap")
            logits = graph.op("Tanh", logits, name="tanh_of_logits")
            logits = graph.op("Mul", logits, cap, name="capped_logits")
        graph.op("Identity", logits, name="logits")
        graph.output("logits", "float32", ["batch_size", "sequence_length", self.outline.vocab_size])
