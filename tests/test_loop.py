"""What the training loop does beside steps: stopping, keeping the best, noise, precision, saving memory."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit.exceptions import ToolkitError
from support.engine import MODELS, Event, Run, tensors, train
from support.rows import random_ids, write_words

MODEL = MODELS / "llama_gqa"

# Steps of this size soon do harm.
HARMFUL: dict[str, Any] = {"iters": 20, "lr": 0.03, "eval_every": 1, "early_stopping_patience": 3, "seed": 5}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = random_ids(10, [5, 9, 14, 20], seed=1)
    return write_words(tmp_path / "data", rows, random_ids(3, [8, 13], seed=2))


def assert_equal(run: Run, other: Run) -> None:
    assert run.adapter.keys() == other.adapter.keys()
    for name, value in run.adapter.items():
        assert np.array_equal(value, other.adapter[name]), name


def stopping_step(losses: list[tuple[int, float]], patience: int) -> int:
    best, waited = math.inf, 0
    for step, loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == patience:
            return step
    return -1


def test_a_run_stops_when_validation_does_not_improve(data: Path, tmp_path: Path) -> None:
    free = train(MODEL, data, tmp_path / "free", **{**HARMFUL, "early_stopping_patience": None})
    run = train(MODEL, data, tmp_path / "run", **HARMFUL)
    expected = stopping_step(free.report["validation_losses"], 3)
    assert 3 <= expected < HARMFUL["iters"]
    assert run.report["steps"] == expected
    assert run.report["stopped_early"] is True
    assert free.report["stopped_early"] is False
    assert [event["step"] for event in run.of("stopped")] == [expected]
    assert free.of("stopped") == []
    assert run.report["train_losses"] == free.report["train_losses"][:expected]
    assert run.of("finished")[0]["step"] == expected


def test_the_result_has_the_weights_of_the_lowest_validation_loss(data: Path, tmp_path: Path) -> None:
    run = train(MODEL, data, tmp_path / "run", **HARMFUL)
    step, loss = min(run.report["validation_losses"][1:], key=lambda point: point[1])
    assert step < run.report["steps"]
    assert run.report["best_step"] == step
    assert run.report["loss_after"] == loss
    assert run.report["perplexity_after"] == pytest.approx(math.exp(loss))
    only_so_far = train(MODEL, data, tmp_path / "short", **{**HARMFUL, "iters": step})
    assert_equal(run, only_so_far)
    last = train(MODEL, data, tmp_path / "last", **HARMFUL, keep_best=False)
    assert last.report["best_step"] is None
    assert last.report["loss_after"] == last.report["validation_losses"][-1][1]
    assert any(not np.array_equal(value, run.adapter[name]) for name, value in last.adapter.items())


@pytest.mark.parametrize("interrupted", [2, 6])
def test_stopping_and_the_best_survive_an_interruption(data: Path, tmp_path: Path, interrupted: int) -> None:
    whole = train(MODEL, data, tmp_path / "whole", **HARMFUL)

    def stop(_: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == interrupted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MODEL, data, tmp_path / "part", stop, **HARMFUL)
    rest = train(MODEL, data, tmp_path / "part", resume=True, **HARMFUL)
    for key in ("steps", "stopped_early", "best_step", "validation_losses", "loss_after"):
        assert rest.report[key] == whole.report[key], key
    assert_equal(whole, rest)


def test_stopping_early_needs_something_to_validate_on(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", random_ids(1, [5], seed=1))
    (data / "valid.jsonl").unlink()
    with pytest.raises(ToolkitError, match="early_stopping_patience needs validation rows"):
        train(MODEL, data, tmp_path / "run", **HARMFUL)


def test_noise_on_embeddings_is_for_training_and_repeatable(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"iters": 3, "batch_size": 2}
    plain = train(MODEL, data, tmp_path / "plain", **settings)
    noisy = train(MODEL, data, tmp_path / "noisy", **settings, neftune_alpha=5.0)
    again = train(MODEL, data, tmp_path / "again", **settings, neftune_alpha=5.0)
    assert noisy.report["loss_before"] == plain.report["loss_before"]
    assert noisy.report["train_losses"][0] != plain.report["train_losses"][0]
    assert noisy.report["train_losses"] == again.report["train_losses"]
    assert_equal(noisy, again)


def scaled_head(folder: Path, factor: float) -> Path:
    """The model with a head whose gradients are ``factor`` times as large, in float16."""
    shutil.copytree(MODEL, folder)
    path = folder / "model.safetensors"
    values = dict(mx.load(str(path)))
    key = "lm_head.weight" if "lm_head.weight" in values else "model.embed_tokens.weight"
    values[key] = values[key] * factor
    mx.eval(values)
    mx.save_safetensors(str(path), values)
    return folder


def test_an_overflow_in_float16_is_skipped_and_the_scale_recovers(data: Path, tmp_path: Path) -> None:
    model = scaled_head(tmp_path / "model", 300.0)
    settings: dict[str, Any] = {
        "dtype": "float16",
        "iters": 10,
        "batch_size": 2,
        "keep_best": False,
        "save_every": 1,
    }
    run = train(model, data, tmp_path / "run", **settings)
    overflows = run.of("overflow")
    assert overflows
    assert overflows[0]["step"] == 1
    assert [event["loss_scale"] for event in overflows] == [
        65536.0 / 2**i for i in range(1, len(overflows) + 1)
    ]
    steps = [event["step"] for event in run.of("step")]
    assert sorted([*steps, *(event["step"] for event in overflows)]) == list(range(1, 11))
    assert steps
    assert all(math.isfinite(event["grad_norm"]) for event in run.of("step"))
    assert len(run.report["train_losses"]) == 10
    folder = tmp_path / "run" / "checkpoints" / "step-0000009"
    state = json.loads((folder / "state.json").read_text())
    assert state["updates"] == 9 - len([event for event in overflows if event["step"] <= 9])
    assert state["loss_scale"]["scale"] == overflows[-1]["loss_scale"]


def test_gradients_in_float16_are_those_of_float32(data: Path, tmp_path: Path) -> None:
    """Scaling leaves the norm as it is."""
    settings: dict[str, Any] = {"iters": 3, "batch_size": 2}
    half = train(MODEL, data, tmp_path / "half", dtype="float16", **settings)
    single = train(MODEL, data, tmp_path / "single", dtype="float32", **settings)
    assert half.of("overflow") == []
    for a, b in zip(half.of("step"), single.of("step"), strict=True):
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=0.02)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_trained_weights_of_half_a_precision_have_full_masters(
    data: Path, tmp_path: Path, dtype: str
) -> None:
    """Four steps of 1e-5 are less than the weights' own format tells apart, and are not lost."""
    settings: dict[str, Any] = {
        "method": "full",
        "dtype": dtype,
        "iters": 5,
        "lr": 1e-5,
        "save_every": 4,
        "keep_best": False,
    }
    train(MODEL, data, tmp_path / "run", **settings)
    masters = mx.load(str(tmp_path / "run" / "checkpoints" / "step-0000004" / "parameters.safetensors"))
    start = mx.load(str(MODEL / "model.safetensors"))
    name = "model.layers.0.mlp.up_proj.weight"
    assert masters[name].dtype == mx.float32
    half = getattr(mx, dtype)
    moved = np.abs(np.array(masters[name] - start[name].astype(half).astype(mx.float32)))
    assert np.median(moved) == pytest.approx(4e-5, rel=0.5)
    result = mx.load(str(tmp_path / "run" / "model.safetensors"))
    assert result[name].dtype == half


@pytest.mark.parametrize("name", ["llama_gqa", "gemma2", "gpt_oss", "lfm2", "mixtral", "phi3", "qwen3_moe"])
def test_recomputed_activations_give_the_same_gradients(data: Path, tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"iters": 2, "batch_size": 2, "lora_dropout": 0.2, "max_grad_norm": 1.0}
    plain = train(MODELS / name, data, tmp_path / "plain", **settings)
    recomputed = train(MODELS / name, data, tmp_path / "recomputed", **settings, grad_checkpoint=1)
    for a, b in zip(plain.of("step"), recomputed.of("step"), strict=True):
        assert (a["loss"], a["grad_norm"]) == (b["loss"], b["grad_norm"])
    assert_equal(plain, recomputed)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_recomputing_groups_of_blocks_when_every_weight_is_trained(
    data: Path, tmp_path: Path, every: int
) -> None:
    settings: dict[str, Any] = {"method": "full", "iters": 2, "batch_size": 2}
    plain = train(MODEL, data, tmp_path / "plain", **settings)
    recomputed = train(MODEL, data, tmp_path / "recomputed", **settings, grad_checkpoint=every)
    assert recomputed.report["train_losses"] == plain.report["train_losses"]
    for key, value in tensors(tmp_path / "plain" / "model.safetensors").items():
        assert np.array_equal(value, tensors(tmp_path / "recomputed" / "model.safetensors")[key]), key
