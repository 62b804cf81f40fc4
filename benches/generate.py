"""Generation speed: reading a prompt (prefill) and writing an answer (decode), in tokens per second.

uv run python benches/generate.py --shape tiny --python torch=/path/to/python
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
import shapes

MEASURES = {
    "prefill_tokens_per_second": "prefill, tokens/s",
    "decode_tokens_per_second": "decode, tokens/s",
}


def main() -> int:
    """Make the checkpoint, run the rounds, print the table."""
    parser = harness.options("Generation speed at a named shape.")
    parser.add_argument("--shape", default="tiny", choices=shapes.SHAPES, help="size of the model")
    parser.add_argument(
        "--case",
        action="append",
        metavar="PROMPTxNEW",
        help="tokens to read x tokens to write (default: 256x64)",
    )
    args = parser.parse_args()
    cache = args.cache or shapes.default_cache()
    checkpoint = shapes.checkpoint(args.shape, cache)
    jobs: dict[str, dict[str, Any]] = {}
    for case in args.case or ["256x64"]:
        prompt, new = (int(number) for number in case.split("x"))
        jobs[f"{args.shape} {prompt}x{new}"] = {
            "task": "generate",
            "checkpoint": str(checkpoint),
            "prompt": shapes.words(args.shape, prompt, np.random.default_rng(2)),
            "new_tokens": new,
            "check": 8,
        }
    rows = harness.compare(args, jobs, MEASURES)
    for case, job in jobs.items():
        check([row for row in rows if row.case == case and row.facts], job["new_tokens"])
    return harness.report(args, rows, MEASURES) if rows else 0


def check(rows: list[harness.Row], new_tokens: int) -> None:
    """Flag who wrote fewer tokens, or (in float32, where greedy decoding leaves no room) other ones."""
    exact = [row for row in rows if harness.split(row.contestant)[1] == "float32"]
    for row in rows:
        if row.facts["generated"] != new_tokens:
            harness.flag(row, f"{row.facts['generated']} tokens written, not {new_tokens}")
        if row in exact and row.facts["ids"] != exact[0].facts["ids"]:
            harness.flag(row, f"writes other tokens than {exact[0].contestant}")


if __name__ == "__main__":
    raise SystemExit(main())
