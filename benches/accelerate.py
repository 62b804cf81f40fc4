"""mlx-lm in float32 with and without `eat.accelerate_mlx()`: training and generation, in tokens per second.

uv run --group dev python benches/accelerate.py --shape 100m
"""

from __future__ import annotations

import harness
import lora
import numpy as np
import shapes

MEASURES = {
    "tokens_per_second": "LoRA, tokens/s",
    "prefill_tokens_per_second": "prefill, tokens/s",
    "decode_tokens_per_second": "decode, tokens/s",
}
KNOWN = ("mlx-lm", "mlx-lm-accelerated")


def main() -> int:
    """Make the checkpoint, run the rounds, print the table."""
    parser = harness.options("What `accelerate_mlx` does for other programs that use MLX.", KNOWN)
    lora.arguments(parser)
    parser.add_argument(
        "--new", type=int, default=32, help="tokens to write, after a prompt of one row's length"
    )
    args = parser.parse_args()
    turns = harness.contestants(args, ",".join(KNOWN), KNOWN)
    cache = args.cache or shapes.default_cache()
    jobs: dict[str, dict[harness.Contestant, harness.Job]] = {}
    for case, job in lora.training(args, "lora", shapes.checkpoint(args.shape, cache), cache).items():
        prompt = shapes.words(args.shape, job["length"], np.random.default_rng(2))
        job |= {"task": "both", "prompt": prompt, "new_tokens": args.new, "check": 8}
        jobs[case] = dict.fromkeys(turns, job)
    rows = harness.compare(args, jobs, MEASURES)
    for case in jobs:
        lora.check([row for row in rows if row.case == case and row.facts])
    return harness.report(args, rows, MEASURES, subject="accelerated") if rows else 0


if __name__ == "__main__":
    raise SystemExit(main())
