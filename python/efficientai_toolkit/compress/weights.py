"""Sizes of the weights of a model folder, read from the headers of its files."""

import json
import struct
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from efficientai_toolkit.exceptions import ModelLoadingError

_LARGEST_HEADER = 100 << 20
"""Bytes; the limit of the safetensors library."""

_EMBEDDINGS = ("embed_tokens", "wte", "embedding", "lm_head", "output_layer")
_FEED_FORWARD = ("mlp", "feed_forward", "ffn")

_PARAMETERS = 2
"""Parameters of a group of quantized weights: a scale and a bias."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Numbers of parameters by where they are."""

    size: int
    """Bytes on disk."""
    embeddings: int
    """Parameters of embeddings and output head."""
    feed_forward: int
    """Parameters of matrices of feed-forward layers."""
    matrices: int
    """Parameters of all other matrices of the blocks."""
    others: int
    """Parameters of norms and biases."""

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return self.embeddings + self.feed_forward + self.matrices + self.others

    def without(self, fraction: float, *, blocks: bool) -> "Weights":
        """Return what is left without a fraction of the blocks, or else of the feed-forward channels."""
        feed_forward = round(self.feed_forward * (1 - fraction))
        matrices = round(self.matrices * (1 - fraction)) if blocks else self.matrices
        left = replace(self, feed_forward=feed_forward, matrices=matrices)
        return replace(left, size=round(self.size * left.parameters / max(self.parameters, 1)))

    def quantized(self, bits: int, group_size: int, embedding_bits: int) -> int:
        """Return the bytes if matrices have so many bits per weight."""
        # Of the type of the other weights.
        number = 8 * round(self.size / max(self.parameters, 1))
        extra = _PARAMETERS * number / group_size
        total = (self.feed_forward + self.matrices) * (bits + extra)
        total += self.embeddings * (embedding_bits + extra) + number * self.others
        return int(total / 8)


def read_weights(folder: Path) -> Weights:
    """Count the parameters in a folder in Hugging Face format.

    Raises
    ------
    ModelLoadingError
        If there are no safetensors files, or a header is damaged.
    """
    counts = {"embeddings": 0, "feed_forward": 0, "matrices": 0, "others": 0}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        message = f"{folder} has no .safetensors files, whose sizes a compression starts from"
        raise ModelLoadingError(message)
    for file in files:
        for name, shape in _read_shapes(file).items():
            counts[_classify(name, shape)] += prod(shape)
    return Weights(size=sum(file.stat().st_size for file in files), **counts)


def _classify(name: str, shape: list[int]) -> str:
    parts = name.split(".")
    if len(shape) < 2:  # noqa: PLR2004
        return "others"
    if any(part in _EMBEDDINGS for part in parts):
        return "embeddings"
    return "feed_forward" if any(part in _FEED_FORWARD for part in parts) else "matrices"


def _read_shapes(file: Path) -> dict[str, list[int]]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _LARGEST_HEADER:
                message = f"{file}: the header has {length} bytes"
                raise ModelLoadingError(message)
            header = json.loads(stream.read(length))
        return {
            str(name): [int(size) for size in entry["shape"]]
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (
        OSError,
        struct.error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        message = f"{file}: not a safetensors file ({error})"
        raise ModelLoadingError(message) from error
