"""Text of an exported model beside that of the engine."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.onnx import Session

PROMPT = "List three"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    result = eat.export(format="onnx", type="f32", output=folder)
    assert result.largest_difference is not None
    assert result.largest_difference < 1e-4
    return Session(folder, threads=1)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "seed": 1},
    {"repetition_penalty": 1.5},
    {"stop": ["."]},
    {"ignore_eos": True, "skip_special_tokens": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_texts_equal_the_engines(settings: dict[str, Any], session: Session) -> None:
    model, tokenizer = eat.load(dtype="float32")
    expected = eat.generate(model, tokenizer, PROMPT, max_tokens=48, **settings)
    pieces: list[str] = []
    assert session.generate(PROMPT, max_tokens=48, stream=pieces.append, **settings) == expected
    assert "".join(pieces) == expected
    assert len(pieces) > 1
    assert list(session.stream(PROMPT, max_tokens=48, **settings)) == pieces


def test_prompts_are_texts_or_ids(session: Session) -> None:
    text = session.generate(PROMPT, max_tokens=8)
    assert session.generate(session.tokenizer.encode(PROMPT), max_tokens=8) == text
    with pytest.raises(ConfigError, match="expected 0 to 2047"):
        session.generate([1, 4000])
    with pytest.raises(ConfigError, match="at least one token"):
        session.generate([])
    with pytest.raises(ConfigError, match="513 tokens are more than the 512"):
        session.generate([1] * 513)
    # Text ends where the positions do.
    assert session.generate([1] * 512, ignore_eos=True) == ""
    assert len(session.tokenizer.encode(session.generate([1] * 505, ignore_eos=True))) <= 14


@pytest.mark.parametrize(
    "settings",
    [{"kv_bits": 8}, {"accuracy": "int8"}, {"logprobs": 1}, {"response_format": {"regex": "a"}}],
)
def test_settings_of_the_engine_are_refused(settings: dict[str, Any], session: Session) -> None:
    with pytest.raises(ConfigError, match=f"onnxruntime has no `{next(iter(settings))}`"):
        session.generate(PROMPT, **settings)


def test_the_configuration_of_genai_names_what_the_graph_has(session: Session) -> None:
    import onnxruntime

    model = json.loads((session.path / "genai_config.json").read_text())["model"]
    decoder = model["decoder"]
    graph = onnxruntime.InferenceSession(str(session.path / decoder["filename"]))
    names = {each.name for each in graph.get_inputs()}
    layers = range(decoder["num_hidden_layers"])
    patterns = (decoder["inputs"]["past_key_names"], decoder["inputs"]["past_value_names"])
    assert names == {"input_ids", "attention_mask"} | {name % i for name in patterns for i in layers}
    patterns = (decoder["outputs"]["present_key_names"], decoder["outputs"]["present_value_names"])
    assert {each.name for each in graph.get_outputs()} == {"logits"} | {
        name % i for name in patterns for i in layers
    }
    assert (model["type"], model["vocab_size"], model["context_length"]) == ("llama", 2048, 512)
    assert model["eos_token_id"] in (0, [0])


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"
)
def test_onnxruntime_genai_runs_the_folder(session: Session) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    model = genai.Model(str(session.path))
    ids = session.tokenizer.encode(PROMPT)
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(ids) + 24, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    found = [int(token) for token in generator.get_sequence(0)[len(ids) :]]
    text = session.tokenizer.decode(found)
    assert text.startswith(session.generate(PROMPT, max_tokens=24))
