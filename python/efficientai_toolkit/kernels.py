"""Benchmarks of the engine's kernels relative to the peak performance of the machine.

>>> import efficientai_toolkit as eat
>>> print(eat.kernels.report())  # doctest: +SKIP
"""

import json
import operator
from dataclasses import dataclass
from typing import Literal

from efficientai_toolkit._base.tables import align

__all__ = ["Peaks", "Report", "Row", "measure", "measure_convolution", "report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peaks:
    """Peak performance of the processor with all threads.

    A fused multiply-add counts as two operations.
    """

    f32_gflops: float
    """float32 arithmetic, in 10⁹ operations per second."""
    bf16_gflops: float | None
    """bfloat16 dot products; ``None`` without instructions for them."""
    int8_gops: float | None
    """int8 dot products; ``None`` without instructions for them."""
    read_gbs: float
    """Memory read bandwidth, in 10⁹ bytes per second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Measurement of an operation at a typical size."""

    operation: str
    size: str
    """Rows, inputs and outputs of layers; tokens and width of other operations."""
    format: str
    """Data type of activations; for packed weights, of the products."""
    path: str
    """Instruction set and, for matrix products, register block; ``MLX`` on a GPU."""
    seconds: float
    """Median time per call."""
    gflops: float
    """10⁹ operations of matrix products per second."""
    gbs: float
    """10⁹ bytes per second, counting each operand and result once."""
    bound: Literal["compute", "memory"]
    """Which resource limits the peak performance."""
    share: float | None
    """Fraction of the peak performance, above 1 if operands are cached; ``None`` on a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Measurements of all kernels; ``print`` shows a table."""

    isa: str
    """Instruction set in use."""
    highest_isa: str
    """Highest instruction set of the processor; differs from ``isa`` if ``EAT_ISA`` limits it."""
    threads: int
    """Number of threads; set by ``EAT_NUM_THREADS``."""
    gpu: bool
    """Whether MLX's GPU kernels are used."""
    peaks: Peaks
    rows: list[Row]

    def __str__(self) -> str:
        """Format the report as a table."""
        peaks = [
            ("f32", self.peaks.f32_gflops, "GFLOP/s"),
            ("bf16", self.peaks.bf16_gflops, "GFLOP/s"),
            ("int8", self.peaks.int8_gops, "GOP/s"),
            ("memory", self.peaks.read_gbs, "GB/s"),
        ]
        cells = [("operation", "size", "format", "path", "time", "speed", "of peak")]
        cells += [_cells(row) for row in self.rows]
        lines = [
            f"instructions  {self.isa} (the processor's best: {self.highest_isa}), {self.threads} threads",
            f"runs on       {'GPU, with the kernels of MLX' if self.gpu else 'CPU, with kernels of our own'}",
            "peaks         " + ", ".join(f"{name} {peak:.0f} {unit}" for name, peak, unit in peaks if peak),
            "",
        ]
        return "\n".join([*lines, *align(cells, left=4)])


def _cells(row: Row) -> tuple[str, str, str, str, str, str, str]:
    """Format a row of the table."""
    speed = f"{row.gflops:.0f} GFLOP/s" if row.bound == "compute" else f"{row.gbs:.1f} GB/s"
    share = "" if row.share is None else f"{row.share:.0%} {row.bound}"
    return row.operation, row.size, row.format, row.path, f"{row.seconds * 1e3:.2f} ms", speed, share


def report() -> Report:
    """Measure all operations and the peak performance of the machine.

    This takes a few seconds and should run on an idle machine. Each operation is compared with its limit
    in the `roofline model <https://doi.org/10.1145/1498765.1498785>`_, compute or memory bandwidth.

    Returns
    -------
    Report

    Raises
    ------
    ToolkitError
        If an operation fails, usually for lack of memory.
    """
    from efficientai_toolkit._engine.core import core

    values = json.loads(core.kernels.report())
    peaks, rows = Peaks(**values.pop("peaks")), [Row(**row) for row in values.pop("rows")]
    return Report(peaks=peaks, rows=rows, **values)


def measure(
    operation: str,
    *,
    rows: int,
    inputs: int,
    outputs: int,
    dtype: str = "float32",
    bits: int | None = None,
    group_size: int = 64,
    accuracy: str | None = None,
    sparsity: float | None = None,
) -> float:
    """Measure the time of a kernel on random inputs.

    Parameters
    ----------
    operation
        ``"linear"`` (``x·Wᵀ``), or ``"quantized_linear"`` with packed weights ``W``.
    rows, inputs, outputs
        Shapes of ``x``, ``[rows, inputs]``, and ``W``, ``[outputs, inputs]``. Each is at most 2²⁰, and
        matrices have at most 2²⁸ elements.
    dtype
        Data type of ``x``, of dense weights and of quantization scales: ``"float32"``, ``"float16"`` or
        ``"bfloat16"``.
    bits, group_size
        Quantization of packed weights: 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128.
    accuracy
        Precision of products with packed weights: ``"f32"``, ``"bf16"`` or ``"int8"``; by default the
        highest that ``dtype`` allows.
    sparsity
        Fraction of zeros of a weight that is held without them, in floating point, 4 or 8 bits; by default
        the weight is dense.

    Returns
    -------
    float
        Median seconds per call.

    Raises
    ------
    ConfigError
        If an argument is invalid or too large.
    """
    from efficientai_toolkit._engine.core import core

    request = {
        "operation": operation,
        "rows": rows,
        "inputs": inputs,
        "outputs": outputs,
        "dtype": dtype,
        "bits": bits,
        "group_size": group_size,
        "accuracy": accuracy,
        "sparsity": sparsity,
    }
    # numpy's integers are integers too.
    return core.kernels.measure(json.dumps(request, default=operator.index))


def measure_convolution(
    *,
    batch: int,
    height: int,
    width: int,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    dtype: str = "float32",
    part: Literal["forward", "input_gradient", "weight_gradient"] = "forward",
) -> float:
    """Measure the time of a 2-D convolution on random images with padding ``kernel // 2``.

    Parameters
    ----------
    batch, height, width, inputs
        Shape of the images; ``inputs`` is the number of channels.
    outputs, kernel, groups
        Shape of the weights, ``[outputs, kernel, kernel, inputs / groups]``. Images and weights have at most
        2²⁸ elements each.
    stride
        Stride of the kernel in pixels.
    dtype
        ``"float32"``, ``"float16"`` or ``"bfloat16"``.
    part
        Pass to measure.

    Returns
    -------
    float
        Median seconds per call.

    Raises
    ------
    ConfigError
        If an argument is invalid or too large.
    """
    from efficientai_toolkit._engine.core import core

    request = {
        "batch": batch,
        "height": height,
        "width": width,
        "inputs": inputs,
        "outputs": outputs,
        "kernel": kernel,
        "stride": stride,
        "groups": groups,
        "dtype": dtype,
        "pass": part,
    }
    return core.kernels.measure_convolution(json.dumps(request, default=operator.index))
