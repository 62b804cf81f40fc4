"""What the graph of a decoder needs to know besides its parameters."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.parameters import EMBEDDINGS, Parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from efficientai_toolkit._core.models import Model

_LONGEST = 1 << 20
"""Most positions that tables of rotations have rows for."""

_ROWS = 1 << 14
"""Rows of a table that are computed at once, in float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """A rotation of queries and keys."""

    frequencies: tuple[float, ...]
    """Radians per position of every pair."""
    attention_factor: float
    """Factor of rotated queries and keys."""
    limit: int | None
    """Longest sequence that these frequencies are for."""

    def table(self, function: np.ufunc, length: int, dtype: str) -> "NDArray[Any]":
        """Return cosines or sines of the angles of all positions, ``[length, pairs]``."""
        table = np.empty((length, len(self.frequencies)), dtype)
        for start in range(0, length, _ROWS):
            positions = np.arange(start, min(start + _ROWS, length), dtype=np.float64)
            angles = positions[:, None] * np.array(self.frequencies)
            table[start : start + _ROWS] = function(angles) * self.attention_factor
        return table


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A block of attention and a gated feed-forward layer."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    softcap: float | None
    window: int | None
    rope: Rope | None
    activation: str
    norm_eps: float
    norm_offset: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """A decoder."""

    embedding_scale: float | None
    softcap: float | None
    blocks: tuple[Block, ...]
    vocab_size: int
    hidden_size: int
    context_length: int
    """Longest sequence whose positions are known."""
    model_context_length: int
    """Longest sequence of the model itself."""

    def cut(self, length: int) -> "Outline":
        """Return the same for sequences of at most ``length`` tokens."""
        return replace(self, context_length=length)


def describe(model: "Model", parameters: Parameters, *, title: str) -> Outline:
    """Describe a model for the format called ``title``.

    Raises
    ------
    ConfigError
        If the graph cannot express it.
    """
    found = model.outline
    if found is None:
        message = (
            f"{model.path}: the {title} export knows decoders of attention and gated feed-forward layers "
            "(llama, mistral, qwen2, qwen3, smollm3, phi3, gemma2, gemma3_text) without virtual tokens, "
            f"not this {model.model_type}"
        )
        raise ConfigError(message)
    blocks = tuple(_block(fields) for fields in found["blocks"])
    longest = _context_length(model)
    limits = [block.rope.limit for block in blocks if block.rope is not None and block.rope.limit]
    vocab_size, hidden_size = parameters.size(EMBEDDINGS)
    return Outline(
        embedding_scale=found["embedding_scale"],
        softcap=found["softcap"],
        blocks=blocks,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        context_length=min([longest, _LONGEST, *limits]),
        model_context_length=longest,
    )


def _block(fields: dict[str, Any]) -> Block:
    rope = fields.pop("rope")
    if rope is not None:
        rope = Rope(
            frequencies=tuple(rope["frequencies"]),
            attention_factor=rope["attention_factor"],
            limit=rope["limit"],
        )
    return Block(**fields, rope=rope)


def _context_length(model: "Model") -> int:
    length = cast("dict[str, Any]", model.config).get("max_position_embeddings")
    if not isinstance(length, int) or length < 1:
        message = (
            f"{model.path}: the tables of rotations have a row for every position: "
            f"`max_position_embeddings` must tell how many, not {length!r}"
        )
        raise ConfigError(message)
    return length
