"""Result of a quantization."""

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
    format: str
    """``bits/group_size``, or the name of a floating-point format."""
    technique: str
    """How its weights were rounded: ``rtn``, ``gptq`` or ``awq``; ``, learned`` if scales were trained."""
    weight_error: float
    """Squared error of the weights, relative to their squares."""
    tokens: int
    """Number of calibration tokens that reached the layer."""
    damping: float | None
    """Damping that GPTQ needed."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class LayerSensitivity(Displayed):
    """What quantizing one layer alone costs."""

    layer: str
    """Name of the layer, or of a stack of experts."""
    format: str
    """Format in which it was quantized."""
    kl: float
    """Mean divergence of the predictions from those of the original model, in nats."""
    errors: dict[str, float]
    """What each format is expected to cost, relative to ``format``."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class QuantizeResult(Displayed):
    """Result of a quantization."""

    output: Path
    """Folder of the quantized model."""
    bits_per_weight: float
    """Stored bits per parameter, scales and unquantized parameters included."""
    size_bytes: int
    """Size of the weights."""
    parameters: int
    """Number of parameters."""
    seconds: float
    """Seconds without loading."""
    peak_memory_gb: float
    """Peak of MLX's allocator, in 10⁹ bytes."""
    requantization_error: float | None
    """Mean squared error, relative to the squares, of weights that were dequantized and quantized again."""
    uncalibrated: list[str]
    """Layers that no calibration token reached, such as experts never chosen; rounded to nearest."""
    divergence: list[float] | None
    """Mean KL divergence from the original model before and after learning, on calibration sequences that
    were not learned from and at the temperature of the run."""
    layers: list[LayerReport]
    """Each quantized layer, in the order of the model."""
    sensitivity: list[LayerSensitivity]
    """Sensitivity of each layer whose format it decided."""

    @classmethod
    def from_report(cls, text: str) -> "QuantizeResult":
        """Create a result from the engine's JSON report."""
        report = json.loads(text)
        return cls(
            output=Path(report["output"]),
            bits_per_weight=report["bits_per_weight"],
            size_bytes=report["size"],
            parameters=report["parameters"],
            seconds=report["seconds"],
            peak_memory_gb=report["peak_memory"] / 1e9,
            requantization_error=report["requantization_error"],
            uncalibrated=report["uncalibrated"],
            divergence=report["divergence"],
            layers=[LayerReport(**layer) for layer in report["layers"]],
            sensitivity=[LayerSensitivity(**layer) for layer in report["sensitivity"]],
        )

    def summary(self) -> dict[str, float]:
        """Return the final metrics, such as ``bits_per_weight``, ``size_bytes`` or ``seconds``."""
        divergence = dict(zip(("divergence_before", "divergence_after"), self.divergence or (), strict=False))
        return numbers({**asdict(self), **divergence})
