"""One kernel at a time beside the library that is known for it, in GFLOP/s.

uv run python benches/kernels.py --operation quantized_linear --case 512x896x4864
"""

from __future__ import annotations

import harness

MEASURES = {"gflops": "GFLOP/s"}
KNOWN = {
    "linear": ("ours", "torch", "numpy"),
    "quantized_linear": ("ours", "ours-int8", "onnxruntime", "onnxruntime-int8"),
}
DEFAULT = {
    "linear": "ours,ours-bf16,torch,torch-bf16,numpy",
    "quantized_linear": "ours,ours-bf16,ours-int8,onnxruntime,onnxruntime-int8",
}
CASES = {
    "linear": ["2048x2048x2048"],
    "quantized_linear": ["512x896x4864", "512x2048x8192"],
}


def main() -> int:
    """Run the rounds, print the table."""
    every = dict.fromkeys(name for names in KNOWN.values() for name in names)
    parser = harness.options("Speed of one linear layer.", every)
    parser.add_argument(
        "--operation",
        default="linear",
        choices=KNOWN,
        help="dense, or with a weight in 4 bits and float32 input",
    )
    parser.add_argument(
        "--case",
        action="append",
        metavar="ROWSxINPUTSxOUTPUTS",
        help="size of the layer (default: 2048x2048x2048; in 4 bits 512x896x4864 and 512x2048x8192)",
    )
    parser.add_argument("--group", type=int, default=64, help="weights that share a scale")
    args = parser.parse_args()
    turns = harness.contestants(args, DEFAULT[args.operation], KNOWN[args.operation])
    jobs: dict[str, dict[harness.Contestant, harness.Job]] = {}
    for case in args.case or CASES[args.operation]:
        rows, inputs, outputs = (int(number) for number in case.split("x"))
        job = {
            "task": args.operation,
            "rows": rows,
            "inputs": inputs,
            "outputs": outputs,
            "group": args.group,
        }
        jobs[f"{args.operation} {case}"] = dict.fromkeys(turns, job)
    results = harness.compare(args, jobs, MEASURES)
    return harness.report(args, results, MEASURES) if results else 0


if __name__ == "__main__":
    raise SystemExit(main())
