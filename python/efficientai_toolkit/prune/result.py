"""Result of pruning."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.callbacks.run import numbers


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class LayerReport(Displayed):
    """What was done to one layer."""

    path: str
    """Name of the layer."""
    method: str
    """How its weights were chosen."""
    sparsity: float
    """Fraction of its weights that are zero."""
    output_error: float | None
    """Squared error of its outputs on calibration text, relative to their squares."""
    tokens: int
    """Number of calibration tokens that reached the layer."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class BlockReport(Displayed):
    """What a pattern of depth or width did to one block."""

    path: str
    """Name of the block in the original model."""
    removed: bool
    """Whether it was removed."""
    influence: float | None
    """One minus the mean cosine of its inputs and outputs on calibration text."""
    removed_groups: list[int]
    """Removed groups of attention heads, each with its key and value head."""
    attention_error: float | None
    """Squared error of the outputs of attention on calibration text, relative to their squares."""
    removed_channels: list[int]
    """Removed channels of its feed-forward layer."""
    output_error: float | None
    """Squared error of the outputs of the feed-forward layer on calibration text, relative to their
    squares."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PruneResult(Displayed):
    """Result of pruning."""

    output: Path
    """Folder of the pruned model."""
    sparsity: float
    """Fraction of the weights of the pruned layers that are zero, or of the blocks or channels that
    were removed; of all parameters, if blocks or channels of several kinds were."""
    parameters_before: int
    """Number of parameters of the original model."""
    parameters: int
    """Number of parameters, zeros included."""
    nonzero: int
    """Number of parameters that are not zero."""
    seconds: float
    """Seconds without loading."""
    peak_memory_gb: float
    """Peak of MLX's allocator."""
    layers: list[LayerReport]
    """Every layer with pruned weights."""
    blocks: list[BlockReport]
    """Every block of the original model, if the pattern is one of depth or width."""
    removed_hidden: list[int]
    """Removed channels of the residual stream."""

    @classmethod
    def from_report(cls, text: str) -> "PruneResult":
        """Create a result from the engine's JSON report."""
        report = json.loads(text)
        return cls(
            output=Path(report["output"]),
            sparsity=report["sparsity"],
            parameters_before=report["parameters_before"],
            parameters=report["parameters"],
            nonzero=report["nonzero"],
            seconds=report["seconds"],
            peak_memory_gb=report["peak_memory"] / 1e9,
            layers=[LayerReport(**layer) for layer in report["layers"]],
            blocks=[BlockReport(**block) for block in report["blocks"]],
            removed_hidden=report["removed_hidden"],
        )

    def summary(self) -> dict[str, float]:
        """Return the final metrics: ``sparsity``, ``nonzero``, ``output_error``, ``seconds``, …."""
        return numbers({**asdict(self), "output_error": self.output_error})

    @property
    def output_error(self) -> float | None:
        """Mean output error of the layers."""
        errors = [layer.output_error for layer in self.layers if layer.output_error is not None]
        return sum(errors) / len(errors) if errors else None
