"""LoRA training speed, in tokens per second, of this toolkit and the libraries one would otherwise use.

uv run python benches/lora.py --shape tiny --python torch=/path/to/python
"""

from __future__ import annotations

from typing import Any

import harness
import shapes

MEASURES = {"tokens_per_second": "tokens/s"}


def main() -> int:
    """Make the checkpoint, run the rounds, print the table."""
    parser = harness.options("LoRA training speed at a named shape.")
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
    args = parser.parse_args()
    cache = args.cache or shapes.default_cache()
    checkpoint = shapes.checkpoint(args.shape, cache)
    jobs: dict[str, dict[str, Any]] = {}
    for case in args.case or ["4x256"]:
        batch, length = (int(number) for number in case.split("x"))
        jobs[f"{args.shape} {batch}x{length}"] = {
            "task": "lora",
            "checkpoint": str(checkpoint),
            "data": str(shapes.training_data(args.shape, batch * (args.warmup + args.steps), length, cache)),
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
    rows = harness.compare(args, jobs, MEASURES)
    for case in jobs:
        check([row for row in rows if row.case == case and row.facts])
    return harness.report(args, rows, MEASURES) if rows else 0


def check(rows: list[harness.Row]) -> None:
    """Flag who did not train the same thing: other parameters, or another loss before the first step."""
    for row in rows:
        first, facts = rows[0].facts, row.facts
        if facts["trainable_parameters"] != first["trainable_parameters"]:
            harness.flag(row, f"{facts['trainable_parameters']:,} trainable parameters")
        half = any(harness.split(r.contestant)[1] != "float32" for r in (row, rows[0]))
        if abs(facts["loss_before"] / first["loss_before"] - 1) > (1e-2 if half else 1e-4):
            harness.flag(
                row, f"loss {facts['loss_before']:.4f} before training, not {first['loss_before']:.4f}"
            )


if __name__ == "__main__":
    raise SystemExit(main())
