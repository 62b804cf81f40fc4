"""One kernel at a time beside the library that is known for it, in GFLOP/s.

uv run --group dev efficientai-toolkit benchmark run benches/kernels.py --set operation=quantized_linear
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import harness

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark import Case

MEASURES = {
    "linear": ("gflops",),
    "quantized_linear": ("gflops",),
    "conv2d": ("forward", "input_gradient", "weight_gradient"),
}
KNOWN = {
    "linear": ("ours", "torch", "numpy"),
    "quantized_linear": ("ours", "ours-int8", "onnxruntime", "onnxruntime-int8"),
    "conv2d": ("ours", "torch"),
}
DEFAULT = {
    "linear": "ours,ours-bf16,torch,torch-bf16,numpy",
    "quantized_linear": "ours,ours-bf16,ours-int8,onnxruntime,onnxruntime-int8",
    "conv2d": "ours,ours-bf16,torch,torch-bf16",
}
SIZES = {
    "linear": "2048x2048x2048",
    "quantized_linear": "512x896x4864,512x2048x8192",
    "conv2d": "8x56x56x64x128x3,8x28x28x256x256x3,8x56x56x128x128x3x128",
}
EXTENTS = {
    "linear": ("rows", "inputs", "outputs"),
    "quantized_linear": ("rows", "inputs", "outputs"),
    "conv2d": ("batch", "height", "width", "inputs", "outputs", "kernel", "groups"),
}


def cases(
    *,
    operation: str = "linear",
    sizes: str | None = None,
    contestants: str | None = None,
    group: int = 64,
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield the cases of an operation: a dense layer, one with a weight in 4 bits and float32 input, or a
    convolution with its gradients (GFLOP/s each).

    `sizes` are ROWSxINPUTSxOUTPUTS, of a convolution BATCHxHEIGHTxWIDTHxINPUTSxOUTPUTSxKERNEL[xGROUPS],
    separated by commas; `group` is the number of weights that share a scale.
    """
    if operation not in KNOWN:
        message = f"operation {operation!r} is none of {', '.join(KNOWN)}"
        raise ValueError(message)
    turns = harness.parse_contestants(contestants or DEFAULT[operation], KNOWN[operation])
    jobs = {
        f"{operation} {size}": dict.fromkeys(turns, job_of(operation, size, group))
        for size in (sizes or SIZES[operation]).split(",")
    }
    return harness.cases(jobs, MEASURES[operation], python=python, threads=threads)


def job_of(operation: str, size: str, group: int) -> harness.Job:
    """Take a size apart."""
    extents = [int(number) for number in size.split("x")]
    names = EXTENTS[operation]
    if operation == "conv2d":
        extents += [1] * (len(extents) == len(names) - 1)
    if len(extents) != len(names):
        message = f"the size {size}: give {', '.join(names)} with x between them"
        raise ValueError(message)
    job = {"task": operation, "group": group, **dict(zip(names, extents, strict=True))}
    if operation == "conv2d" and job["kernel"] % 2 == 0:
        message = f"the size {size}: the kernel must be odd, so that images keep their size"
        raise ValueError(message)
    return job
