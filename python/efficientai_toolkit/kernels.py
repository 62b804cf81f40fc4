"""How fast the engine's kernels are on this machine, and how fast they could be.

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
    """What the processor can do at best, all threads together.

    A multiplication and an addition count as two operations.
    """

    f32_gflops: float
    """Arithmetic in float32, in 10⁹ operations per second."""
    bf16_gflops: float | None
    """Products of bfloat16; None where no instruction computes them."""
    int8_gops: float | None
    """Products of bytes; None where no instruction computes them."""
    read_gbs: float
    """Reading memory, in 10⁹ bytes per second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One operation at a typical size."""

    operation: str
    size: str
    """Rows, inputs and outputs of a layer, tokens and width of other operations."""
    format: str
    """Number format of the activations; with packed weights, how products are computed."""
    path: str
    """Instruction set and, for matrix products, the block kept in registers; ``MLX`` on a GPU."""
    seconds: float
    """Median time of one call."""
    gflops: float
    """10⁹ operations of matrix products per second."""
    gbs: float
    """10⁹ bytes per second, each operand and result counted once."""
    bound: Literal["compute", "memory"]
    """What sets the pace at best."""
    share: float | None
    """Share of the best possible speed; above 1 where caches hold the operands. None on a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The kernels of this machine; ``print`` shows it as a table."""

    isa: str
    """Instruction set in use."""
    highest_isa: str
    """The best one of this processor; more than ``isa`` when ``EAT_ISA`` names a lower one."""
    threads: int
    """Threads that kernels use; ``EAT_NUM_THREADS`` sets them."""
    gpu: bool
    """Whether MLX's own kernels on a GPU do the work instead."""
    peaks: Peaks
    rows: list[Row]

    def __str__(self) -> str:
        """Lines for people."""
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
    """What the table shows of a row."""
    speed = f"{row.gflops:.0f} GFLOP/s" if row.bound == "compute" else f"{row.gbs:.1f} GB/s"
    share = "" if row.share is None else f"{row.share:.0%} {row.bound}"
    return row.operation, row.size, row.format, row.path, f"{row.seconds * 1e3:.2f} ms", speed, share


def report() -> Report:
    """Measure every operation at a typical size, and what the machine could do at best.

    Takes a few seconds, best on an otherwise idle machine. An operation is compared with
    whichever sets its pace, arithmetic or memory (the `roofline
    <https://doi.org/10.1145/1498765.1498785>`_).

    Returns
    -------
    Report

    Raises
    ------
    ToolkitError
        MLX could not compute an operation, for lack of memory above all.
    """
    from efficientai_toolkit._engine.core import core

    values = json.loads(core.report_kernels())
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
) -> float:
    """Time one kernel on random numbers.

    Parameters
    ----------
    operation
        ``"linear"``, ``x·Wᵀ``, or ``"quantized_linear"``, the same with a packed ``W``.
    rows, inputs, outputs
        ``x`` is ``[rows, inputs]`` and ``W`` is ``[outputs, inputs]``. Each is at most 2²⁰, and no
        matrix may have more than 2²⁸ numbers.
    dtype
        Of ``x``, of a dense ``W`` and of the scales of a packed one: ``"float32"``, ``"float16"`` or
        ``"bfloat16"``.
    bits, group_size
        Of a packed ``W``: 2, 3, 4, 5, 6 or 8 bits, and 32, 64 or 128 weights that share a scale.
    accuracy
        How products with a packed ``W`` are computed: ``"f32"``, ``"bf16"`` or ``"int8"``; None for as
        exactly as ``dtype`` allows.

    Returns
    -------
    float
        Median seconds of one call.

    Raises
    ------
    ConfigError
        An argument is impossible or too large; it is named.
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
    }
    # numpy's integers are integers too.
    return core.measure_kernel(json.dumps(request, default=operator.index))


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
    """Time a convolution over random images, with half a kernel of zeros around each of them.

    Parameters
    ----------
    batch, height, width, inputs
        Shape of the images; ``inputs`` are channels.
    outputs, kernel, groups
        The kernels are ``[outputs, kernel, kernel, inputs / groups]``. Images and kernels have at most 2²⁸
        numbers each.
    stride
        Pixels from one place of the kernel to the next.
    dtype
        ``"float32"``, ``"float16"`` or ``"bfloat16"``.
    part
        What is timed.

    Returns
    -------
    float
        Median seconds of one call.

    Raises
    ------
    ConfigError
        An argument is impossible or too large; it is named.
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
    return core.measure_convolution(json.dumps(request, default=operator.index))
