"""Attention, with keys and values in a state."""

import math
from importlib import import_module
from typing import Any

import numpy as np

from efficientai_toolkit.exports.coreml.layers import Layers
from efficientai_toolkit.exports.coreml.sequence import Sequence
from efficientai_toolkit.exports.outline import Block, Rope


class Attention:
    """Adds the attention of one block."""

    def __init__(self, layers: Layers, block: Block, index: int) -> None:
        self._mb: Any = import_module("coremltools.converters.mil.mil").Builder
        self._layers = layers
        self._parameters = layers.weights.parameters
        self._block = block
        self._index = index
        self._path = f"model.layers.{index}.self_attn"

    def build(self, x: Any, sequence: Sequence) -> Any:
        """Add everything between ``x`` and the output projection, included."""
        mb, block = self._mb, self._block
        queries, keys, values = self._project(x)
        queries = self._heads(queries, block.heads, "q_norm")
        keys = self._heads(keys, block.kv_heads, "k_norm")
        values = self._heads(values, block.kv_heads, None)
        if block.rope is not None:
            tables = sequence.rotation(block.rope)
            queries, keys = (self._rotate(each, block.rope, *tables) for each in (queries, keys))
        if sequence.states is not None:
            keys, values = (
                self._remember(state, each, sequence)
                for state, each in zip(sequence.states, (keys, values), strict=True)
            )
        # Queries that share keys stand behind each other, so that keys are not repeated.
        groups = block.heads // block.kv_heads
        shape = [1, block.kv_heads, -1, block.head_dim]
        if groups > 1:
            queries = mb.reshape(x=queries, shape=shape)
        attended = self._attend(queries, keys, values, sequence.mask(block.window, groups), sequence)
        if groups > 1:
            attended = mb.reshape(x=attended, shape=[1, block.heads, -1, block.head_dim])
        attended = mb.transpose(x=attended, perm=[0, 2, 1, 3])
        attended = mb.reshape(x=attended, shape=[1, -1, block.heads * block.head_dim])
        return self._layers.linear(f"{self._path}.o_proj", attended)

    def _project(self, x: Any) -> tuple[Any, Any, Any]:
        block, linear = self._block, self._layers.linear
        if f"{self._path}.qkv_proj.weight" in self._parameters:
            heads = [block.heads, block.kv_heads, block.kv_heads]
            sizes = [count * block.head_dim for count in heads]
            together = linear(f"{self._path}.qkv_proj", x)
            queries, keys, values = self._mb.split(x=together, split_sizes=sizes, axis=-1)
        else:
            queries, keys, values = (linear(f"{self._path}.{name}_proj", x) for name in "qkv")
        return queries, keys, values

    def _heads(self, x: Any, heads: int, norm: str | None) -> Any:
        """Add ``[1, heads, queries, head_dim]``, with a norm of each head if the model has it."""
        mb = self._mb
        x = mb.reshape(x=x, shape=[1, -1, heads, self._block.head_dim])
        if norm is not None and f"{self._path}.{norm}.weight" in self._parameters:
            x = self._layers.norm(f"{self._path}.{norm}", self._block, mb.cast(x=x, dtype="fp32"))
        return mb.transpose(x=x, perm=[0, 2, 1, 3])

    def _rotate(self, x: Any, rope: Rope, cosines: Any, sines: Any) -> Any:
        """Add the rotation of elements ``i`` and ``pairs + i``; what is behind all pairs stays."""
        mb, pairs = self._mb, len(rope.frequencies)
        rest = self._block.head_dim - 2 * pairs
        sizes = [pairs, pairs, *([rest] if rest else [])]
        first, second, *others = mb.split(x=x, split_sizes=sizes, axis=-1)
        turned = (
            mb.sub(x=mb.mul(x=first, y=cosines), y=mb.mul(x=second, y=sines)),
            mb.add(x=mb.mul(x=second, y=cosines), y=mb.mul(x=first, y=sines)),
        )
        return mb.concat(values=[*turned, *others], axis=-1)

    def _remember(self, state: Any, x: Any, sequence: Sequence) -> Any:
        """Add the change of a state, and return all of its tokens, ``[1, heads, keys, head_dim]``."""
        mb, layer = self._mb, self._index
        # Of layers one, of time a part, of everything else all.
        rest = {"end_mask": [False, True, True, False, True]}
        end = self._place([layer + 1, 0, 0], sequence.end)
        whole = mb.coreml_update_state(
            state=state,
            value=mb.slice_update(
                x=sequence.read(state),
                update=mb.expand_dims(x=x, axes=[0]),
                begin=self._place([layer, 0, 0], sequence.past),
                end=end,
                **rest,
            ),
        )
        sequence.wrote(state, whole)
        one = [True, False, False, False, False]
        return mb.slice_by_index(x=whole, begin=[layer, 0, 0, 0, 0], end=end, squeeze_mask=one, **rest)

    def _place(self, first: list[int], time: Any) -> Any:
        mb = self._mb
        return mb.concat(values=[first, mb.expand_dims(x=time, axes=[0]), [0]], axis=0)

    def _attend(self, queries: Any, keys: Any, values: Any, mask: Any, sequence: Sequence) -> Any:
        mb, block = self._mb, self._block
        if sequence.states is not None and block.softcap is None:
            # The operation divides by the root of the size.
            factor = block.scale * math.sqrt(block.head_dim)
            if not math.isclose(factor, 1, rel_tol=1e-6):
                queries = mb.mul(x=queries, y=np.float16(factor))
            return mb.scaled_dot_product_attention(query=queries, key=keys, value=values, attn_mask=mask)
        queries = mb.mul(x=queries, y=np.float16(block.scale))
        scores = mb.matmul(x=queries, y=keys, transpose_y=True)
        if block.softcap is not None:
            capped = mb.tanh(x=mb.mul(x=scores, y=np.float16(1 / block.softcap)))
            scores = mb.mul(x=capped, y=np.float16(block.softcap))
        shares = mb.softmax(x=mb.add(x=scores, y=mask), axis=-1)
        return mb.matmul(x=shares, y=values)
