"""The parameters of a model, one at a time."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.exports.blocks import dequantize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from efficientai_toolkit._core.models import Model

EMBEDDINGS = "model.embed_tokens"
HEAD = "lm_head"


class Parameters:
    """Parameters by the key path of their layer; adapters in use are part of the weights.

    ``report`` receives the number of values that were taken, and that of all.
    """

    def __init__(self, model: "Model", report: Callable[[int, int], None]) -> None:
        self._model = model
        self.shapes = {name: tuple(shape) for name, shape in model.parameter_shapes.items()}
        self.formats = model.quantized_layers
        """Mode, bits and group size of quantized layers."""
        self._report = report
        self._total = sum(map(math.prod, self.shapes.values()))
        self._taken = 0

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    @property
    def tied(self) -> bool:
        """Whether the token embeddings are the output head too."""
        return f"{HEAD}.weight" not in self

    def size(self, path: str) -> tuple[int, int]:
        """Return rows and columns of a matrix."""
        rows, stored = self.shapes[f"{path}.weight"]
        bits = self.formats[path][1] if path in self.formats else 32
        return rows, stored * 32 // bits

    def take(self, name: str) -> "NDArray[Any]":
        """Return a parameter as it is: float32, or the integers of a quantized weight."""
        array = self._model.parameter(name)
        self._taken += array.size
        self._report(self._taken, self._total)
        return array

    def take_parts(self, path: str) -> "tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]":
        """Return codes, scales and, of affine formats, biases of a quantized layer."""
        biases = f"{path}.biases"
        return (
            self.take(f"{path}.weight"),
            self.take(f"{path}.scales"),
            self.take(biases) if biases in self else None,
        )

    def take_matrix(self, path: str) -> "NDArray[np.float32]":
        """Return the weight of a layer, ``[rows, columns]``, in float32."""
        if path not in self.formats:
            dense: NDArray[np.float32] = self.take(f"{path}.weight")
            return dense
        mode, bits, group_size = self.formats[path]
        return dequantize(*self.take_parts(path), bits=bits, group_size=group_size, mode=mode)
