"""Export the embedded model to LiteRT, and let its interpreter continue a text.

uv run --extra tflite python examples/tflite.py
"""

import tempfile
from pathlib import Path

import efficientai_toolkit as eat

with tempfile.TemporaryDirectory() as folder:
    # Your own: export("folder or org/name", format="tflite", type="int8", output="model-tflite")
    result = eat.export(format="tflite", type="int8", context_length=64, output=Path(folder) / "model-tflite")
    print(f"{result.size_before:,} → {result.size_after:,} bytes")
    print(f"largest difference of logits: {result.largest_difference:.1e} of the largest")
    session = eat.exports.tflite.Session(result.path)
    for piece in session.stream("ROMEO:\n", max_tokens=48):
        print(piece, end="", flush=True)
    print()
