"""Generation of several texts at once, piece by piece, and in given formats."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.models.generation import GenerateConfig, Requests, generate_with_statistics
from efficientai_toolkit.quantize import quantize
from support.engine import MODELS

PROMPTS = ["Once upon a time", "To be or not to be, that is", "What is the capital of France?", "1 2 3"]


@pytest.fixture(scope="module")
def loaded() -> Any:
    return eat.load()


def test_a_list_of_prompts_gives_what_each_gives_alone(loaded: Any) -> None:
    model, tokenizer = loaded
    prompts = [*PROMPTS, [5, 6, 7], tokenizer.encode("Hello there")]
    together = eat.generate(model, tokenizer, prompts, max_tokens=24, accuracy="f32")
    alone = [eat.generate(model, tokenizer, prompt, max_tokens=24, accuracy="f32") for prompt in prompts]
    assert together == alone


def test_a_stream_is_the_text_in_pieces(loaded: Any) -> None:
    model, tokenizer = loaded
    pieces = list(eat.stream(model, tokenizer, PROMPTS[1], max_tokens=24))
    assert len(pieces) > 5
    assert "".join(pieces) == eat.generate(model, tokenizer, PROMPTS[1], max_tokens=24)
    first = next(eat.stream(model, tokenizer, PROMPTS[1], max_tokens=100_000))
    assert first == pieces[0]


def test_bad_streams_are_refused(loaded: Any) -> None:
    model, tokenizer = loaded
    with pytest.raises(ConfigError, match="call stream for each"):
        next(eat.stream(model, tokenizer, cast("Any", PROMPTS)))
    with pytest.raises(ConfigError, match="no tokens"):
        next(eat.stream(model, tokenizer, []))
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        next(eat.stream(model, tokenizer, "a", max_tokens=0))


def test_log_probabilities_are_those_of_the_logits(loaded: Any) -> None:
    model, tokenizer = loaded
    config = GenerateConfig(max_tokens=8, logprobs=3, prompt_logprobs=0, accuracy="f32", ignore_eos=True)
    prompt = tokenizer.encode(PROMPTS[1])
    result = generate_with_statistics(model, tokenizer, prompt, config)
    ids = [*prompt, *(entry["id"] for entry in result.logprobs)]
    logits = np.asarray(model([ids]), dtype=np.float64)[0]
    logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logs -= logits.max(-1, keepdims=True)
    found = [*result.prompt_logprobs, *result.logprobs]
    expected = [logs[i, token] for i, token in enumerate(ids[1:])]
    assert np.abs(np.array([entry["logprob"] for entry in found]) - expected).max() < 2e-3
    assert all(entry["top"] == [] for entry in result.prompt_logprobs)
    for entry in result.logprobs:
        assert [entry["id"], entry["logprob"]] == entry["top"][0]
        assert len(entry["top"]) == 3


def test_biases_and_penalties(loaded: Any) -> None:
    model, tokenizer = loaded
    token = tokenizer.encode("z")[-1]
    forced = eat.generate(model, tokenizer, "a", max_tokens=4, logit_bias={str(token): 100.0})
    assert forced == tokenizer.decode([token] * 4)
    config = GenerateConfig(
        max_tokens=6, logit_bias={str(token): 100.0}, presence_penalty=2.0, frequency_penalty=2.0
    )
    assert generate_with_statistics(model, tokenizer, "a", config).generated_tokens == 6


def test_special_tokens_are_shown_if_asked_for(loaded: Any) -> None:
    model, tokenizer = loaded
    settings: dict[str, Any] = {
        "max_tokens": 3,
        "ignore_eos": True,
        "logit_bias": {str(tokenizer.eos_token_id): 100.0},
    }
    assert eat.generate(model, tokenizer, "a", **settings) == ""
    assert eat.generate(model, tokenizer, "a", skip_special_tokens=False, **settings) == "<|endoftext|>" * 3


@pytest.mark.parametrize(
    ("response_format", "pattern"),
    [
        ({"regex": "(yes|no), [0-9]{2,3}"}, "(yes|no), [0-9]{2,3}"),
        ({"grammar": 'start: "A" B\nB: /[x-z]{4}/'}, "A[x-z]{4}"),
    ],
)
def test_text_has_the_format(loaded: Any, response_format: dict[str, Any], pattern: str) -> None:
    model, tokenizer = loaded
    for seed in range(3):
        text = eat.generate(
            model, tokenizer, "Answer:", response_format=response_format, temperature=1.0, seed=seed
        )
        assert re.fullmatch(pattern, text), text


def test_json_follows_its_schema(loaded: Any) -> None:
    model, tokenizer = loaded
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
    for seed in range(3):
        text = eat.generate(
            model,
            tokenizer,
            "A person:",
            response_format={"json_schema": schema},
            temperature=1.0,
            seed=seed,
            max_tokens=400,
        )
        value = json.loads(text)
        assert set(value) == {"name", "age", "tags"}
        assert len(value["name"]) <= 8
        assert 0 <= value["age"] <= 120
        assert set(value["tags"]) <= {"a", "b"}


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        ({"json_schema": {"type": "nothing"}}, "response_format"),
        ({"json_schema": {"$ref": "https://example.com/schema"}}, "response_format"),
        ({"regex": "("}, "response_format"),
        ({"grammar": "start: missing"}, "response_format"),
        ({"xml": "a"}, "xml"),
    ],
)
def test_formats_that_cannot_be_compiled_are_refused(
    loaded: Any, response_format: dict[str, Any], message: str
) -> None:
    model, tokenizer = loaded
    with pytest.raises(ConfigError, match=message):
        eat.generate(model, tokenizer, "a", response_format=response_format)


def test_many_requests_end_with_an_event_each(loaded: Any) -> None:
    model, tokenizer = loaded
    requests = Requests(model, tokenizer, GenerateConfig(max_tokens=3, ignore_eos=True))
    numbers = [requests.add(f"{i} and") for i in range(20)]
    ended = [event["id"] for event in requests.events() if event["finish_reason"] is not None]
    assert sorted(ended) == numbers


def test_a_draft_model_changes_nothing_in_the_text(loaded: Any, tmp_path: Path) -> None:
    model, tokenizer = loaded
    quantize(None, output=str(tmp_path / "q"), technique="rtn", bits=3)
    draft, _ = eat.load(tmp_path / "q")
    alone = eat.generate(model, tokenizer, PROMPTS, max_tokens=40)
    assert eat.generate(model, tokenizer, PROMPTS, max_tokens=40, draft_model=draft) == alone
    pieces: list[str] = []
    text = eat.generate(model, tokenizer, PROMPTS[0], max_tokens=40, draft_model=draft, stream=pieces.append)
    assert text == "".join(pieces) == alone[0]
    assert len(pieces) < 30
    assert "".join(eat.stream(model, tokenizer, PROMPTS[0], max_tokens=40, draft_model=draft)) == alone[0]


def test_drafts_that_do_not_fit_are_refused(loaded: Any) -> None:
    model, tokenizer = loaded
    with pytest.raises(ConfigError, match="the draft model is the model itself"):
        eat.generate(model, tokenizer, "a", draft_model=model)
    other, _ = eat.load(MODELS / "llama_gqa")
    with pytest.raises(ConfigError, match="they must have the same vocabulary"):
        eat.generate(model, tokenizer, "a", draft_model=other)
