"""Quantize the embedded model in several ways, measure them beside the original, and choose one.

uv run --extra plots python examples/quantize.py
"""

import efficientai_toolkit as eat
from efficientai_toolkit.benchmark.runner import Progress


def show(progress: Progress) -> None:
    if progress.result is None:
        print(f"{progress.done + 1}/{progress.total} {progress.case}")


# Your own: benchmark("folder or org/name", data="held-out.jsonl", calibration="other-text.jsonl", …)
result = eat.quantize.benchmark(
    techniques=["rtn", "gptq"],
    bits=[3, 4],
    sequences=16,
    length=128,
    settings={"calibration_sequences": 16, "sequence_length": 256},
    on_progress=show,
)
print(eat.quantize.format_rows(result.rows))

choice = eat.quantize.recommend(result, max_kl=0.05, prefer="size")
print(choice.reason)
if choice.row is not None:
    model, tokenizer = eat.load(choice.row.path)
    print(eat.generate(model, tokenizer, "ROMEO:\n", max_tokens=48))
