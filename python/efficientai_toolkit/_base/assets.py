"""What ships inside the package: the embedded model and its instruction data."""

from pathlib import Path

_ROOT = Path(__file__).parents[1] / "assets"

MODEL = _ROOT / "model"
"""A small Llama-architecture model with its tokenizer."""

DEMO = _ROOT / "demo.yaml"
"""Training settings that suit the embedded model."""

INSTRUCTIONS = _ROOT / "instructions"
"""``train.jsonl``, ``valid.jsonl`` and ``test.jsonl`` with rows ``{"prompt", "completion"}``."""
