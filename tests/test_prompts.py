"""Virtual tokens before every text: trained, stored, generated with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
from support.engine import MODELS, Event, Run, continuation, logits, tensors, train
from support.rows import EOS, FIRST_WORD, random_ids, write_words

SMALL = MODELS / "llama_gqa"
KINDS: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"method": "prompt_tuning"},
    "text": {"method": "prompt_tuning", "prompt_tuning_init": "text", "prompt_tuning_init_text": "t5 t6 t7"},
    "sample_vocab": {"method": "prompt_tuning", "prompt_tuning_init": "sample_vocab"},
    "p_tuning": {"method": "p_tuning"},
    "prefix_tuning": {"method": "prefix_tuning"},
    "prefix_projection": {"method": "prefix_tuning", "prefix_projection": True, "encoder_hidden_size": 16},
}
FAMILIES = sorted({path.parent.name for path in MODELS.glob("*/config.json")} - {"chat"})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = random_ids(10, [5, 9, 14, 20], seed=1)
    return write_words(tmp_path / "data", rows, random_ids(3, [8, 13], seed=2))


@pytest.mark.parametrize("kind", KINDS)
def test_they_learn(kind: str, tmp_path: Path) -> None:
    settings = {**KINDS[kind], "prompt_tuning_init_text": None}
    if kind == "text":
        settings["prompt_tuning_init_text"] = "Answer the question."
    run = train(MODEL, INSTRUCTIONS, tmp_path / "run", **settings, iters=40, lr=1e-2, eval_batches=4)
    assert run.report["loss_after"] < run.report["loss_before"] - 0.1
    assert run.report["loss_after"] == run.report["validation_losses"][-1][1]


def test_tokens_of_a_text_are_where_it_starts(data: Path, tmp_path: Path) -> None:
    settings = {**KINDS["text"], "num_virtual_tokens": 7}
    run = train(SMALL, data, tmp_path / "run", **settings, iters=1, lr=1e-9, keep_best=False)
    found = tensors(run.output / "adapter_model.safetensors")["prompt_embeddings"]
    table = tensors(SMALL / "model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_allclose(found, table[[5, 6, 7, 5, 6, 7, 5]], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_what_was_trained(kind: str, data: Path, tmp_path: Path) -> None:
    run = train(SMALL, data, tmp_path / "run", **KINDS[kind], iters=5, lr=1e-2)
    losses, count = 0.0, 0
    for line in (data / "valid.jsonl").read_text().splitlines():
        ids = [int(word[1:]) for word in json.loads(line)["text"].split()] + [EOS]
        scores = logits(SMALL, [ids[:-1]], run.output)[0].astype(np.float64)
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        losses -= scores[np.arange(len(ids) - 1), ids[1:]].sum()
        count += len(ids) - 1
    assert run.report["loss_after"] == pytest.approx(losses / count, abs=1e-5)


@pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning", "prefix_tuning", "prefix_projection"])
def test_a_run_that_was_interrupted_ends_alike(kind: str, data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**KINDS[kind], "iters": 8, "lr": 1e-2, "eval_every": 2}
    whole = train(SMALL, data, tmp_path / "whole", **settings)

    def stop(_: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, data, tmp_path / "part", stop, **settings)
    rest = train(SMALL, data, tmp_path / "part", **settings, resume=True)
    assert rest.report["train_losses"] == whole.report["train_losses"]
    ours, theirs = (tensors(run.output / "adapter_model.safetensors") for run in (rest, whole))
    np.testing.assert_array_equal(ours["prompt_embeddings"], theirs["prompt_embeddings"])


@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix_tuning"])
@pytest.mark.parametrize("family", FAMILIES)
def test_reading_token_by_token_is_reading_at_once(family: str, kind: str, tmp_path: Path) -> None:
    model = MODELS / family
    vocab = json.loads((model / "config.json").read_text())["vocab_size"]
    data = write_words(tmp_path / "data", random_ids(4, [9], seed=3, vocab_size=vocab))
    settings: dict[str, Any] = {**KINDS[kind], "num_virtual_tokens": 6, "iters": 2, "lr": 1e-2}
    if family.startswith("lfm2") and kind == "prefix_tuning":
        with pytest.raises(
            ConfigError, match="some layers of this model are convolutions: take prompt_tuning"
        ):
            train(model, data, tmp_path / "run", **settings)
        return
    run = train(model, data, tmp_path / "run", **settings)
    prompt = random_ids(1, [7], seed=4, vocab_size=vocab)[0]
    ids = list(prompt)
    while len(ids) < len(prompt) + 12 and ids[-1] != EOS:
        ids.append(int(logits(model, [ids], run.output)[0, -1].argmax()))
    # Special tokens have no text.
    expected = [token for token in ids[len(prompt) :] if token >= FIRST_WORD]
    assert continuation(model, prompt, 12, run.output) == expected


def test_other_ways_to_train_go_with_them(data: Path, tmp_path: Path) -> None:
    kind = KINDS["p_tuning"]
    plain = train(SMALL, data, tmp_path / "plain", **kind, iters=3).report["train_losses"]
    same: list[dict[str, Any]] = [{"streaming": True}, {"grad_checkpoint": 1}]
    others: list[dict[str, Any]] = [{"bits": 4}, {"grad_accumulation": 2, "batch_size": 2}]
    for number, settings in enumerate(same + others):
        run = train(SMALL, data, tmp_path / f"run{number}", **kind, iters=3, **settings)
        losses = run.report["train_losses"]
        assert np.isfinite(losses).all()
        if settings in same:
            np.testing.assert_allclose(losses, plain, rtol=1e-5)


def test_defaults_are_enough(tmp_path: Path) -> None:
    config = TrainingConfig(method="prompt_tuning", iters=2, output=str(tmp_path / "run"), lr=1e-2)
    result = MLXTrainer(config).train()
    assert json.loads((tmp_path / "run/adapter_config.json").read_text())["peft_type"] == "PROMPT_TUNING"
    more = replace(config, output=str(tmp_path / "more"), init_adapter=str(tmp_path / "run"))
    again = MLXTrainer(more).train()
    assert again.metrics["loss_before"] == pytest.approx(result.metrics["loss_after"], abs=1e-5)


def test_an_adapter_of_another_kind_cannot_go_on(data: Path, tmp_path: Path) -> None:
    start = train(SMALL, data, tmp_path / "start", method="prompt_tuning", iters=1).output
    for method in ("prefix_tuning", "lora"):
        with pytest.raises(ConfigError, match=r'init_adapter: .* holds .*"prompt_tuning"'):
            train(SMALL, data, tmp_path / "run", method=method, iters=1, init_adapter=str(start))
    with pytest.raises(ConfigError, match="matrices too large for this model"):
        train(SMALL, data, tmp_path / "run", method="p_tuning", iters=1, encoder_hidden_size=65536)
