"""Paths of the bundled model and data."""

from pathlib import Path

_ROOT = Path(__file__).parents[1] / "assets"

MODEL = _ROOT / "model"
"""Small Llama model with its tokenizer."""

DEMO = _ROOT / "demo.yaml"
"""Training configuration for the bundled model."""

INSTRUCTIONS = _ROOT / "instructions"
"""``train.jsonl``, ``valid.jsonl`` and ``test.jsonl`` with rows ``{"prompt", "completion"}``."""
