"""Write the embedded model for llama.cpp in several number formats, and say what each costs.

uv run python examples/export.py
"""

import tempfile
from pathlib import Path

import efficientai_toolkit as eat

with tempfile.TemporaryDirectory() as folder:
    output = Path(folder) / "model.gguf"
    for kind in ("f16", "q8_0", "q5_k_m", "q4_k_m"):
        # Your own: eat.export("folder or org/name", adapter_path="runs/1", calibration="text.jsonl", …)
        result = eat.export(type=kind, output=output, overwrite=True)
        print(f"{kind}: {result.size_after / 1e6:.1f} MB, largest difference {result.largest_difference:.1e}")
    # A file is a model too.
    model, tokenizer = eat.load(output)
    print(eat.generate(model, tokenizer, "ROMEO:\n", max_tokens=32))
