"""Export the embedded model to ONNX, and let onnxruntime continue a text.

uv run --extra onnx python examples/onnx.py
"""

import tempfile
from pathlib import Path

import efficientai_toolkit as eat

with tempfile.TemporaryDirectory() as folder:
    # Your own: export("folder or org/name", format="onnx", type="int4", output="model-onnx")
    result = eat.export(format="onnx", type="int8", output=Path(folder) / "model-onnx")
    print(f"{result.size_before:,} → {result.size_after:,} bytes")
    print(f"largest difference of logits: {result.largest_difference:.1e} of the largest")
    session = eat.exports.onnx.Session(result.path)
    for piece in session.stream("ROMEO:\n", max_tokens=48):
        print(piece, end="", flush=True)
    print()
