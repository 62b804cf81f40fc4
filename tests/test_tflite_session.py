"""Text of LiteRT beside that of the engine."""

from __future__ import annotations

from typing import Any

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.tflite import Session

PROMPT = "List three"
LENGTH = 40


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("exports") / "tflite"
    eat.export(format="tflite", type="f32", output=folder, context_length=LENGTH, verify="off")
    return Session(folder, threads=1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}, {"repetition_penalty": 1.5}, {"stop": ["."]}],
)
def test_texts_equal_the_engines(settings: dict[str, Any], session: Session) -> None:
    model, tokenizer = eat.load(dtype="float32")
    expected = eat.generate(model, tokenizer, PROMPT, max_tokens=24, **settings)
    pieces: list[str] = []
    assert session.generate(PROMPT, max_tokens=24, stream=pieces.append, **settings) == expected
    assert "".join(pieces) == expected


def test_texts_end_where_the_graph_does(session: Session) -> None:
    assert session.generate([1] * LENGTH, ignore_eos=True) == ""
    assert session.generate([1] * (LENGTH - 4), ignore_eos=True) != ""
    with pytest.raises(ConfigError, match=f"{LENGTH + 1} tokens are more than the {LENGTH}"):
        session.logits([[1] * (LENGTH + 1)])
    with pytest.raises(ConfigError, match="expected 0 to 2047"):
        session.generate([1, 4000])
    with pytest.raises(ConfigError, match="LiteRT has no `logprobs`"):
        session.generate(PROMPT, logprobs=1)


def test_the_caller_still_has_denormal_numbers(session: Session) -> None:
    session.generate(PROMPT, max_tokens=2)
    assert float("5e-324") * 1.0 > 0.0
