"""One kernel at a time beside the library that is known for it, in GFLOP/s.

uv run --group dev python benches/kernels.py --operation quantized_linear --case 512x896x4864
uv run --group parity python benches/kernels.py --operation conv2d
"""

from __future__ import annotations

import harness

LAYER = {"gflops": "GFLOP/s"}
PASSES = {
    "forward": "forward, GFLOP/s",
    "input_gradient": "gradient of the input",
    "weight_gradient": "of the weight",
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
CASES = {
    "linear": ["2048x2048x2048"],
    "quantized_linear": ["512x896x4864", "512x2048x8192"],
    "conv2d": ["8x56x56x64x128x3", "8x28x28x256x256x3", "8x56x56x128x128x3x128"],
}
EXTENTS = ("batch", "height", "width", "inputs", "outputs", "kernel", "groups")


def main() -> int:
    """Run the rounds, print the table."""
    every = dict.fromkeys(name for names in KNOWN.values() for name in names)
    parser = harness.options("Speed of one layer.", every)
    parser.add_argument(
        "--operation",
        default="linear",
        choices=KNOWN,
        help="a dense layer, one with a weight in 4 bits and float32 input, or a convolution with gradients",
    )
    parser.add_argument(
        "--case",
        action="append",
        metavar="ROWSxINPUTSxOUTPUTS",
        help="size of the layer; of a convolution BATCHxHEIGHTxWIDTHxINPUTSxOUTPUTSxKERNEL[xGROUPS] "
        "(default: a few usual ones)",
    )
    parser.add_argument("--group", type=int, default=64, help="weights that share a scale")
    args = parser.parse_args()
    turns = harness.contestants(args, DEFAULT[args.operation], KNOWN[args.operation])
    jobs: dict[str, dict[harness.Contestant, harness.Job]] = {}
    for case in args.case or CASES[args.operation]:
        jobs[f"{args.operation} {case}"] = dict.fromkeys(turns, job_of(args.operation, case, args.group))
    measures = PASSES if args.operation == "conv2d" else LAYER
    results = harness.compare(args, jobs, measures)
    return harness.report(args, results, measures) if results else 0


def job_of(operation: str, case: str, group: int) -> harness.Job:
    """Take the sizes of a case apart."""
    sizes = [int(number) for number in case.split("x")]
    if operation == "conv2d":
        names = EXTENTS
        sizes += [1] * (len(sizes) == len(names) - 1)
    else:
        names = ("rows", "inputs", "outputs")
    if len(sizes) != len(names):
        message = f"--case {case}: give {', '.join(names)} with x between them"
        raise SystemExit(message)
    job = {"task": operation, "group": group, **dict(zip(names, sizes, strict=True))}
    if operation == "conv2d" and job["kernel"] % 2 == 0:
        message = f"--case {case}: the kernel must be odd, so that images keep their size"
        raise SystemExit(message)
    return job


if __name__ == "__main__":
    raise SystemExit(main())
