"""Requests with different adapters in one batch."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.models.generation import GenerateConfig, Requests
from support.engine import FIXTURES, MODELS
from support.server import whole_adapter

PEFT = FIXTURES / "peft"
CHOICES: list[Any] = [
    None,
    "dora",
    "lora",
    "rslora",
    {"lora": 0.7, "rslora": -0.4},
    "last_layer",
    "lora",
    {},
]
SETTINGS: dict[str, Any] = {"max_tokens": 24, "accuracy": "f32", "ignore_eos": True, "logprobs": 5}


def prompt(index: int) -> list[int]:
    return [3 + (index * 7 + i * 5) % 50 for i in range(3 + 4 * index)]


@pytest.fixture(scope="module")
def loaded() -> Any:
    model, tokenizer = eat.load(MODELS / "llama_gqa")
    for name in ("lora", "rslora", "dora", "last_layer"):
        model.load_adapter(PEFT / name, name)
    return model, tokenizer


def collect(requests: Requests, count: int) -> list[tuple[str, list[float]]]:
    texts = [""] * count
    logprobs: list[list[float]] = [[] for _ in range(count)]
    for event in requests.events():
        texts[event["id"]] += event["text"]
        logprobs[event["id"]] += [value for one in event["logprobs"] for _, value in one["top"]]
    return list(zip(texts, logprobs, strict=True))


@pytest.mark.parametrize("on_the_model", [None, "lora", "dora"])
def test_each_row_has_its_adapter(loaded: Any, on_the_model: str | None) -> None:
    model, tokenizer = loaded
    config = GenerateConfig(**SETTINGS)
    alone: list[tuple[str, list[float]]] = []
    for index, choice in enumerate(CHOICES):
        model.set_adapter(on_the_model if choice is None else choice)
        requests = Requests(model, tokenizer, config)
        requests.add(prompt(index))
        alone += collect(requests, 1)
    model.set_adapter(on_the_model)
    for order in (range(len(CHOICES)), [5, 1, 7, 3, 0, 6, 2, 4]):
        requests = Requests(model, tokenizer, config)
        for index in order:
            requests.add(prompt(index), adapter=CHOICES[index])
        for index, (text, logprobs) in zip(order, collect(requests, len(CHOICES)), strict=True):
            assert text == alone[index][0], CHOICES[index]
            np.testing.assert_allclose(logprobs, alone[index][1], rtol=1e-5, atol=1e-4)
    model.set_adapter(None)
    assert len({text for text, _ in alone}) > 4


def test_lists_of_prompts_take_lists_of_adapters(loaded: Any) -> None:
    model, tokenizer = loaded
    prompts = [prompt(index) for index in range(len(CHOICES))]
    settings: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True}
    together = eat.generate(model, tokenizer, prompts, adapter=CHOICES, **settings)
    for index, choice in enumerate(CHOICES):
        model.set_adapter(choice)
        alone = eat.generate(model, tokenizer, prompts[index], **settings)
        model.set_adapter(None)
        assert together[index] == alone
        assert eat.generate(model, tokenizer, prompts[index], adapter=choice, **settings) == alone
        assert "".join(eat.stream(model, tokenizer, prompts[index], adapter=choice, **settings)) == alone
    same = eat.generate(model, tokenizer, prompts, adapter="lora", **settings)
    assert same[2] == together[2]


def test_states_of_prompts_are_those_of_their_adapter(loaded: Any) -> None:
    model, tokenizer = loaded
    engine = core.generate.Engine(model, tokenizer, json.dumps({"prompt_cache_bytes": 1 << 24}))
    config = json.dumps({"max_tokens": 12, "ignore_eos": True})
    first: dict[str, str] = {}
    for turn in range(2):
        numbers = {engine.add(prompt(8), config, adapter=choice): str(choice) for choice in CHOICES[:5]}
        texts, cached = dict.fromkeys(numbers.values(), ""), dict.fromkeys(numbers.values(), 0)
        while engine.running + engine.waiting:
            for event in json.loads(engine.step()):
                texts[numbers[event["id"]]] += event["text"]
                cached[numbers[event["id"]]] = event["cached_tokens"]
        assert all((count > 0) == (turn > 0) for count in cached.values())
        first = first or texts
        assert texts == first
    assert len(set(first.values())) == 5


def test_adapters_come_and_go_while_others_run(loaded: Any) -> None:
    model, tokenizer = loaded
    config = json.dumps({"max_tokens": 30, "ignore_eos": True})
    expected = eat.generate(model, tokenizer, prompt(2), adapter="lora", max_tokens=30, ignore_eos=True)
    plain = eat.generate(model, tokenizer, prompt(2), max_tokens=30, ignore_eos=True)
    engine = core.generate.Engine(model, tokenizer)
    model.load_adapter(PEFT / "lora", "passing")
    numbers = [engine.add(prompt(2), config, adapter="passing"), engine.add(prompt(2), config)]
    texts = dict.fromkeys(numbers, "")
    steps = 0
    while engine.running + engine.waiting:
        for event in json.loads(engine.step()):
            texts[event["id"]] += event["text"]
        steps += 1
        if steps == 5:
            model.unload_adapter("passing")
            model.load_adapter(PEFT / "rslora", "passing")
        if steps == 9:
            model.set_adapter("dora")
            model.set_adapter(None)
    # Nothing was read a second time.
    assert steps == 30
    assert [texts[number] for number in numbers] == [expected, plain]
    model.unload_adapter("passing")


def test_what_has_no_rows_of_its_own_is_refused(loaded: Any, tmp_path: Any) -> None:
    model, tokenizer = loaded
    with pytest.raises(ConfigError, match=r'no adapter is called "none"'):
        eat.generate(model, tokenizer, "a", adapter="none")
    with pytest.raises(ConfigError, match="DoRA"):
        eat.generate(model, tokenizer, "a", adapter={"dora": 0.5})
    with pytest.raises(ConfigError, match="finite"):
        eat.generate(model, tokenizer, "a", adapter={"lora": float("inf")})
    with pytest.raises(ConfigError, match="`adapter` has 1 entries for 2 prompts"):
        eat.generate(model, tokenizer, ["a", "b"], adapter=["lora"])
    with pytest.raises(ConfigError, match="there is a single prompt"):
        eat.generate(model, tokenizer, "a", adapter=cast("Any", ["lora"]))
    embedded, tokenizer = eat.load()
    embedded.load_adapter(whole_adapter(tmp_path / "whole"), "whole")
    assert not embedded.is_batchable("whole")
    with pytest.raises(ConfigError, match=r'"whole" has whole modules \(modules_to_save\)'):
        eat.generate(embedded, tokenizer, "a", adapter="whole")
    engine = core.generate.Engine(embedded, tokenizer)
    engine.add("a", adapter={})
    embedded.set_adapter("whole")
    with pytest.raises(ConfigError, match="whole modules"):
        engine.step()
    with pytest.raises(ConfigError, match="whole modules"):
        eat.generate(embedded, tokenizer, "a", adapter={})


def test_embeddings_have_the_adapter_that_is_named(loaded: Any) -> None:
    model, tokenizer = loaded
    texts = [prompt(1), prompt(4)]
    for name in ("lora", "dora"):
        model.set_adapter(name)
        expected = [vector for vector, _ in core.generate.embed(model, tokenizer, texts)]
        model.set_adapter(None)
        found = [vector for vector, _ in core.generate.embed(model, tokenizer, texts, adapter=name)]
        np.testing.assert_allclose(found, expected, atol=1e-5)
