"""What a quantization method has to say about its checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from efficientai_toolkit.exports.folders.grid import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """How the weight of a layer is stored."""

    rows: int
    """Output features."""
    columns: int
    """Input features."""
    bits: int
    """Bits of its codes."""
    group_size: int
    """Columns that share a scale."""


class Layout(ABC):
    """Tensors and configuration of quantized layers; floats are float32 until they are written."""

    method: ClassVar[str]
    """Name of the quantization method in configurations."""
    bits: ClassVar[tuple[int, ...]]
    """Bits that layers may have."""
    dtype: ClassVar[str | None] = None
    """Number format of everything that is not quantized; ``None`` for that of the model."""
    mixes: ClassVar[bool] = True
    """Whether layers may differ in bits and group size."""

    by_row: ClassVar[bool] = False
    """Whether each row has one scale and no zero point."""

    @abstractmethod
    def fits(self, layer: Layer) -> bool:
        """Return whether words of 32 bits hold the layer."""

    @abstractmethod
    def pack(self, grid: "Grid") -> "dict[str, NDArray[Any]]":
        """Return the tensors of a layer by the last part of their names."""

    @abstractmethod
    def unpack(self, tensors: "Mapping[str, NDArray[Any]]", layer: Layer) -> "NDArray[np.float32]":
        """Return the weight that tensors stand for, ``[rows, columns]``."""

    @abstractmethod
    def describe(self, layers: Mapping[str, Layer], dense: list[str]) -> dict[str, Any]:
        """Return ``quantization_config``: ``dense`` are linear layers that are not quantized."""


def most_common(layers: Mapping[str, Layer]) -> tuple[int, int]:
    """Return bits and group size of most layers."""
    formats = [(layer.bits, layer.group_size) for layer in layers.values()]
    return max(sorted(set(formats)), key=formats.count)


FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Layers that vLLM computes as one, by the name of that one: they have the same format."""


def with_fused(paths: Iterable[str]) -> list[str]:
    """Add the name of the fused layer after all of its parts."""
    found = list(paths)
    for parent in dict.fromkeys(path.rpartition(".")[0] for path in found):
        for fused, parts in FUSED.items():
            if all(f"{parent}.{part}" in found for part in parts):
                found.append(f"{parent}.{fused}")
    return found
