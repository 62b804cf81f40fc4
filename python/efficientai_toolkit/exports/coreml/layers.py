"""Layers that all parts of a decoder use."""

from importlib import import_module
from typing import Any

import numpy as np

from efficientai_toolkit.exports.coreml.weights import Weights
from efficientai_toolkit.exports.outline import Block


class Layers:
    """Adds linear layers and norms by the path of their parameters."""

    def __init__(self, weights: Weights) -> None:
        self._mb: Any = import_module("coremltools.converters.mil.mil").Builder
        self.weights = weights

    def linear(self, path: str, x: Any) -> Any:
        """Add a layer with its bias."""
        has_bias = f"{path}.bias" in self.weights.parameters
        bias = self.weights.vector(f"{path}.bias") if has_bias else None
        return self._mb.linear(x=x, weight=self.weights.matrix(path), bias=bias)

    def norm(self, path: str, block: Block, x: Any) -> Any:
        """Add the norm of float32 numbers, in float16."""
        mb = self._mb
        squares = mb.reduce_mean(x=mb.square(x=x), axes=[-1], keep_dims=True)
        x = mb.mul(x=x, y=mb.rsqrt(x=squares, epsilon=np.float32(block.norm_eps)))
        weight = self.weights.vector(f"{path}.weight", block.norm_offset)
        return mb.mul(x=mb.cast(x=x, dtype="fp16"), y=weight)
