"""Training speed, in tokens per second, of this toolkit and the libraries one would otherwise use.

uv run --group dev python benches/lora.py --method qlora --shape tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import formats
import harness
import shapes

MEASURES = {"tokens_per_second": "tokens/s", "tokens_per_cpu_second": "tokens/CPU-s"}
KNOWN = ("ours", "mlx-lm", "torch", "torch-compile")
DEFAULT = {
    "lora": "ours,ours-bf16,mlx-lm,torch,torch-bf16",
    "qlora": "ours,ours-bf16,mlx-lm",
    "full": "ours,ours-bf16,mlx-lm,torch,torch-bf16",
}


def main() -> int:
    """Make the checkpoint, run the rounds, print the table."""
    parser = harness.options("Training speed at a named shape.", KNOWN)
    parser.add_argument(
        "--method",
        default="lora",
        choices=DEFAULT,
        help="train adapters, adapters on a base in 4 bits, or every weight",
    )
    arguments(parser)
    args = parser.parse_args()
    turns = harness.contestants(args, DEFAULT[args.method], KNOWN)
    if args.method == "qlora" and any(who.library == "torch" for who in turns):
        parser.error("PyTorch has no training in 4 bits on a CPU")
    cache = args.cache or shapes.default_cache()
    checkpoint = (formats.mlx_q4 if args.method == "qlora" else shapes.checkpoint)(args.shape, cache)
    jobs = {
        case: dict.fromkeys(turns, job)
        for case, job in training(args, args.method, checkpoint, cache).items()
    }
    rows = harness.compare(args, jobs, MEASURES)
    for case in jobs:
        check([row for row in rows if row.case == case and row.facts])
    return harness.report(args, rows, MEASURES) if rows else 0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that tell how to train."""
    parser.add_argument("--shape", default="tiny", choices=shapes.SHAPES, help="size of the model")
    parser.add_argument(
        "--case",
        action="append",
        metavar="BATCHxLENGTH",
        help="rows per step x tokens per row (default: 4x256)",
    )
    parser.add_argument("--steps", type=int, default=5, help="measured steps per round")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock starts")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapters")


def training(
    args: argparse.Namespace, method: str, checkpoint: Path, cache: Path
) -> dict[str, dict[str, Any]]:
    """Give the job of each case that was asked for."""
    jobs = {}
    for case in args.case or ["4x256"]:
        batch, length = (int(number) for number in case.split("x"))
        data = shapes.training_data(args.shape, batch * (args.warmup + args.steps), length, cache)
        jobs[f"{method} {args.shape} {batch}x{length}"] = {
            "task": "train",
            "method": method,
            "checkpoint": str(checkpoint),
            "data": str(data),
            "end": shapes.END,
            "batch": batch,
            "length": length,
            "steps": args.steps,
            "warmup": args.warmup,
            "rank": args.rank,
            "alpha": 2.0 * args.rank,
            "lr": 1e-4,
            "seed": 0,
        }
    return jobs


def check(rows: list[harness.Row]) -> None:
    """Flag who did not train the same thing: other parameters, or another loss before the first step."""
    for row in rows:
        first, facts = rows[0].facts, row.facts
        if facts["trainable_parameters"] != first["trainable_parameters"]:
            harness.flag(row, f"{facts['trainable_parameters']:,} trainable parameters")
        half = any(r.contestant.dtype != "float32" for r in (row, rows[0]))
        if abs(facts["loss_before"] / first["loss_before"] - 1) > (1e-2 if half else 1e-4):
            harness.flag(
                row, f"loss {facts['loss_before']:.4f} before training, not {first['loss_before']:.4f}"
            )


if __name__ == "__main__":
    raise SystemExit(main())
