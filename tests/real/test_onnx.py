"""Real models through onnxruntime and, where it is installed, onnxruntime-genai."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exports.onnx import Session

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
TEXT = "The history of science is the study of the development of natural and social sciences."
COUNT = 64


def compare(name: str, model: Any, ids: list[int], session: Session, figure: Check) -> None:
    """Logits in one piece and in several, beside the engine's."""
    expected = model(np.array([ids]))
    largest = np.abs(expected).max()
    whole = session.logits(np.array([ids]))
    pieces = session.logits_in_pieces(ids, [5, 1, 1, len(ids) - 7])
    for kind, found in (("whole", whole), ("pieces", pieces)):
        figure(f"{name}, {kind}", float(np.abs(found - expected).max() / largest), 1e-3)


@pytest.mark.parametrize("kind", ["f32", "int4"])
def test_smollm2_answers_as_the_engine_does(kind: str, smollm2: Path, tmp_path: Path, figure: Check) -> None:
    eat.export(smollm2, format="onnx", type=kind, accuracy_level=0, output=tmp_path / "onnx", verify="off")
    model, tokenizer = eat.load(smollm2, dtype="float32")
    session = Session(tmp_path / "onnx")
    compare(f"SmolLM2 {kind}", model, tokenizer.encode(TEXT), session, figure)
    for prompt in (QUESTION, "Once upon a time"):
        expected = eat.generate(model, tokenizer, prompt, max_tokens=COUNT, accuracy="f32")
        assert session.generate(prompt, max_tokens=COUNT) == expected


def test_gemma3_has_windows_and_large_heads(gemma3: Path, tmp_path: Path, figure: Check) -> None:
    eat.export(gemma3, format="onnx", type="f32", output=tmp_path / "onnx", verify="off")
    model, tokenizer = eat.load(gemma3, dtype="float32")
    compare("Gemma 3 f32", model, tokenizer.encode(TEXT), Session(tmp_path / "onnx"), figure)


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"
)
def test_smollm2_answers_through_genai(smollm2: Path, tmp_path: Path) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    eat.export(smollm2, format="onnx", type="int4", output=tmp_path / "onnx", verify="off")
    model = genai.Model(str(tmp_path / "onnx"))
    tokenizer = genai.Tokenizer(model)
    text = '[{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]'
    ids = tokenizer.encode(tokenizer.apply_chat_template(text, add_generation_prompt=True))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(ids) + COUNT, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    assert "Paris" in tokenizer.decode(generator.get_sequence(0)[len(ids) :])
