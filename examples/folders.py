"""Quantize the embedded model and write it for vLLM and transformers, with the same codes.

uv run python examples/folders.py
"""

import tempfile
from pathlib import Path

import efficientai_toolkit as eat

with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    # Without a search of ranges, zero points are whole numbers, which these formats need.
    # With text of your own: technique="gptq", calibration="rows.jsonl".
    eat.quantize.quantize(technique="rtn", bits=4, range_search=False, output=str(root / "mlx"))
    for kind in ("awq", "gptq", "compressed-tensors", "safetensors"):
        result = eat.export(root / "mlx", format=kind, output=root / kind)
        print(
            f"{kind}: {result.size_after / 1e6:.1f} MB, largest difference {result.largest_difference:.1e}",
            *result.notes,
        )
    model, tokenizer = eat.load(root / "awq")
    print(eat.generate(model, tokenizer, "ROMEO:\n", max_tokens=32))
