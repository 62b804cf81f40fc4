"""The program of a decoder.

Activations are float16; the residual stream, which outgrows it in some models, and norms are float32. With
a state, names of inputs and states are those of Apple's examples:

- ``inputIds``, ``[1, queries]``: the tokens to read;
- ``causalMask``, ``[1, 1, queries, length]``, added to scores: 0, or minus infinity for tokens that a query
  must not see. Its width tells how many tokens there are, those in the state included;
- ``keyCache`` and ``valueCache``, ``[layers, 1, heads, context, head_dim]``.

Without one, ``inputIds`` is the whole text.
"""

from importlib import import_module
from typing import Any

import numpy as np

from efficientai_toolkit.exports.coreml.attention import Attention
from efficientai_toolkit.exports.coreml.layers import Layers
from efficientai_toolkit.exports.coreml.sequence import Sequence
from efficientai_toolkit.exports.coreml.weights import Weights
from efficientai_toolkit.exports.outline import Block, Outline
from efficientai_toolkit.exports.parameters import EMBEDDINGS, HEAD

_GELU = {"gelu": "EXACT", "gelu_tanh": "TANH_APPROXIMATION"}


class Decoder:
    """Adds a decoder to the MIL function under construction."""

    def __init__(self, weights: Weights, outline: Outline) -> None:
        self._mb: Any = import_module("coremltools.converters.mil.mil").Builder
        self._weights = weights
        self._parameters = weights.parameters
        self._layers = Layers(weights)
        self._outline = outline

    def build(self, ids: Any, sequence: Sequence) -> Any:
        """Add everything, and return logits, ``[1, queries, vocabulary]`` in float16."""
        mb, outline = self._mb, self._outline
        x = mb.gather(x=self._weights.matrix(EMBEDDINGS), indices=ids, axis=0)
        x = mb.cast(x=x, dtype="fp32")
        if outline.embedding_scale is not None:
            x = mb.mul(x=x, y=np.float32(outline.embedding_scale))
        for index, block in enumerate(outline.blocks):
            x = self._block(index, block, x, sequence)
        x = self._layers.norm("model.norm", outline.blocks[-1], x)
        logits = self._layers.linear(EMBEDDINGS if self._parameters.tied else HEAD, x)
        if outline.softcap is not None:
            capped = mb.tanh(x=mb.mul(x=logits, y=np.float16(1 / outline.softcap)))
            logits = mb.mul(x=capped, y=np.float16(outline.softcap))
        return mb.identity(x=logits, name="logits")

    def _block(self, index: int, block: Block, x: Any, sequence: Sequence) -> Any:
        path = f"model.layers.{index}"
        normed = self._layers.norm(f"{path}.input_layernorm", block, x)
        attended = Attention(self._layers, block, index).build(normed, sequence)
        # Gemma has norms behind its layers too.
        if f"{path}.pre_feedforward_layernorm.weight" in self._parameters:
            attended = self._layers.norm(f"{path}.post_attention_layernorm", block, self._wide(attended))
            x = self._add(x, attended)
            normed = self._layers.norm(f"{path}.pre_feedforward_layernorm", block, x)
            transformed = self._wide(self._feed_forward(f"{path}.mlp", block, normed))
            return self._add(x, self._layers.norm(f"{path}.post_feedforward_layernorm", block, transformed))
        x = self._add(x, attended)
        normed = self._layers.norm(f"{path}.post_attention_layernorm", block, x)
        return self._add(x, self._feed_forward(f"{path}.mlp", block, normed))

    def _add(self, x: Any, delta: Any) -> Any:
        return self._mb.add(x=x, y=self._wide(delta))

    def _wide(self, x: Any) -> Any:
        return self._mb.cast(x=x, dtype="fp32")

    def _feed_forward(self, path: str, block: Block, x: Any) -> Any:
        mb = self._mb
        if f"{path}.gate_up_proj.weight" in self._parameters:
            gate, up = mb.split(x=self._layers.linear(f"{path}.gate_up_proj", x), num_splits=2, axis=-1)
        else:
            gate, up = (self._layers.linear(f"{path}.{name}_proj", x) for name in ("gate", "up"))
        if block.activation == "silu":
            activated = mb.silu(x=gate)
        else:
            activated = mb.gelu(x=gate, mode=_GELU[block.activation])
        return self._layers.linear(f"{path}.down_proj", mb.mul(x=activated, y=up))
