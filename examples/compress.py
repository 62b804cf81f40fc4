"""Make the embedded model smaller within a budget, and look at it from all sides.

uv run --extra plots python examples/compress.py
"""

import efficientai_toolkit as eat


def show(progress: eat.compress.Progress) -> None:
    if progress.event is None:
        print(f"{progress.done + 1}/{progress.total} {progress.stage} {progress.candidate}")


# Your own: compress("folder or org/name", calibration="text.jsonl", heldout="other-text.jsonl", …)
result = eat.compress.compress(
    budget="size=0.4",
    max_loss="5%",
    prune=["none", "width-0.2"],
    quantize=["rtn-8", "gptq-4-e4"],
    calibration_sequences=16,
    sequence_length=256,
    sequences=8,
    on_progress=show,
)
print(result.choice.reason)
print("report:", result.output / "compression" / "report.html")

if result.choice.row is not None:
    slow = eat.compress.simulate(result.output, cores=1, threads=1, memory="1GB", generated_tokens=16)
    print(
        "with one core:", slow.tokens_per_second, "tokens/s, p99 of a token", slow.token and slow.token["p99"]
    )
    for row in eat.compress.benchmark(result.output, rounds=1, generated_tokens=16).rows:
        print(row.runtime, row.decode_tokens_per_second or row.reason)
