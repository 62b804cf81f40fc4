"""Generation speed: reading a prompt (prefill) and writing an answer (decode), in tokens per second.

uv run --group dev python benches/generate.py --shape tiny --contestants ours-q4,mlx-lm-q4
"""

from __future__ import annotations

import formats
import harness
import numpy as np
import shapes

MEASURES = {
    "prefill_tokens_per_second": "prefill, tokens/s",
    "decode_tokens_per_second": "decode, tokens/s",
}
KNOWN = ("ours", "ours-q4", "mlx-lm", "mlx-lm-q4", "torch", "llama.cpp-q4_0")
DEFAULT = "ours,ours-q4,mlx-lm,mlx-lm-q4,torch,torch-bf16,llama.cpp-q4_0"
CHECKPOINTS = {"": shapes.checkpoint, "q4": formats.mlx_q4, "q4_0": formats.gguf_q4_0}


def main() -> int:
    """Make the checkpoints, run the rounds, print the table."""
    parser = harness.options("Generation speed at a named shape.", KNOWN)
    parser.add_argument("--shape", default="tiny", choices=shapes.SHAPES, help="size of the model")
    parser.add_argument(
        "--case",
        action="append",
        metavar="PROMPTxNEW",
        help="tokens to read x tokens to write (default: 256x64)",
    )
    parser.add_argument(
        "--llama-bench", default="llama-bench", metavar="PATH", help="llama.cpp's program of that name"
    )
    args = parser.parse_args()
    turns = harness.contestants(args, DEFAULT, KNOWN)
    cache = args.cache or shapes.default_cache()
    checkpoints = {
        variant: CHECKPOINTS[variant](args.shape, cache)
        for variant in dict.fromkeys(who.variant for who in turns)
    }
    jobs: dict[str, dict[harness.Contestant, harness.Job]] = {}
    for case in args.case or ["256x64"]:
        prompt, new = (int(number) for number in case.split("x"))
        job = {
            "task": "generate",
            "prompt": shapes.words(args.shape, prompt, np.random.default_rng(2)),
            "prompt_tokens": prompt,
            "new_tokens": new,
            "check": 8,
            "llama_bench": args.llama_bench,
        }
        jobs[f"{args.shape} {prompt}x{new}"] = {
            who: job | {"checkpoint": str(checkpoints[who.variant])} for who in turns
        }
    rows = harness.compare(args, jobs, MEASURES)
    for case, turn in jobs.items():
        new_tokens = next(iter(turn.values()))["new_tokens"]
        check([row for row in rows if row.case == case and row.facts], new_tokens)
    return harness.report(args, rows, MEASURES) if rows else 0


def check(rows: list[harness.Row], new_tokens: int) -> None:
    """Flag who wrote fewer tokens, or (in float32, where greedy decoding leaves no room) other ones.

    With weights in 4 bits, activations may be rounded too, and there is room.
    """
    exact = [row for row in rows if (row.contestant.variant, row.contestant.dtype) == ("", "float32")]
    for row in rows:
        if row.facts["generated"] != new_tokens:
            harness.flag(row, f"{row.facts['generated']} tokens written, not {new_tokens}")
        if row in exact and row.facts["ids"] != exact[0].facts["ids"]:
            harness.flag(row, f"writes other tokens than {exact[0].contestant.name}")


if __name__ == "__main__":
    raise SystemExit(main())
