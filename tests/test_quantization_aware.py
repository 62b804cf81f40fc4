"""Quantization-aware training: what is saved is what was trained."""

# ruff: noqa: PLR0917, because pytest passes fixtures by name
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit._engine.core import core
from efficientai_toolkit.exceptions import ConfigError
from support.engine import MODELS, Event, Run, cross_entropy, largest, logits, tensors, train
from support.rows import EOS, random_ids, write_words

if TYPE_CHECKING:
    from support.figures import Check

VALID = random_ids(1, [24], seed=2)
SETTINGS: dict[str, Any] = {"iters": 8, "batch_size": 2, "qat_group_size": 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose rows are whole groups of 32."""
    source, folder = MODELS / "llama_tied", tmp_path_factory.mktemp("model") / "model"
    config = json.loads((source / "config.json").read_text())
    # As mlx-lm reads it.
    config.pop("rope_parameters", None)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "head_dim": 16,
        "vocab_size": 256,
        "rope_theta": 1e4,
    }
    core.models.create(json.dumps(config | sizes | {"initializer_range": 0.15}), str(folder), 3, "float32")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, folder / file)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_words(tmp_path / "data", random_ids(8, [9, 14, 20], seed=1), VALID)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    "extra",
    [
        {"method": "full"},
        {"method": "full", "grad_checkpoint": 1},
        {"method": "lora"},
        {"method": "lora", "grad_checkpoint": 1, "lora_init": "pissa", "target_modules": ["q_proj"]},
        {"method": "lora", "target_modules": ["v_proj", "lm_head"]},
        {"method": "full", "packing": True, "max_seq_length": 48},
    ],
    ids=lambda value: ", ".join(map(str, value.values())),
)
def test_the_saved_model_is_the_trained_one(
    model: Path, data: Path, tmp_path: Path, bits: int, extra: dict[str, Any], figure: Check
) -> None:
    run = train(model, data, tmp_path / "out", qat_bits=bits, keep_best=False, **SETTINGS, **extra)
    row = np.array([[*VALID[0], EOS]])
    loaded = cross_entropy(logits(run.output, row[:, :-1]), row[:, 1:])
    figure("validation loss, trained against loaded", abs(loaded - run.report["loss_after"]), 1e-5)
    quantization = json.loads((run.output / "config.json").read_text())["quantization"]
    stored = tensors(run.output / "model.safetensors")
    layer = "model.layers.0.self_attn.q_proj"
    assert stored[f"{layer}.weight"].dtype == np.uint32
    assert quantization.get(layer, quantization)["bits"] == bits
    embedding = quantization.get("model.embed_tokens", quantization)
    assert embedding["bits"] == 8


def test_training_makes_up_for_rounding(model: Path, data: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "iters": 60, "lr": 5e-3, "method": "full", "qat_bits": 2}
    run = train(model, data, tmp_path / "out", **settings)
    losses = run.report["train_losses"]
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 0.5, losses


@pytest.mark.parametrize("method", ["full", "lora"])
def test_gradient_checkpoints_change_nothing(model: Path, data: Path, tmp_path: Path, method: str) -> None:
    settings = {**SETTINGS, "qat_bits": 3, "method": method}
    kept = train(model, data, tmp_path / "kept", **settings)
    again = train(model, data, tmp_path / "again", grad_checkpoint=1, **settings)
    assert np.allclose(kept.report["train_losses"], again.report["train_losses"], rtol=1e-5, atol=0)


def test_mlx_lm_computes_our_logits(model: Path, data: Path, tmp_path: Path, figure: Check) -> None:
    import mlx_lm

    run = train(model, data, tmp_path / "out", qat_bits=4, method="full", **SETTINGS)
    ids = np.array(random_ids(2, [17], seed=5), dtype=np.int32)
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        theirs, _ = mlx_lm.load(str(run.output))[:2]
        expected = np.array(theirs(mx.array(ids)).astype(mx.float32))
    finally:
        mx.set_default_device(device)
    figure("logits against mlx-lm", largest(logits(run.output, ids), expected), 1e-4)


def test_what_cannot_be_rounded_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"qat_group_size: the rows of \S+ have \d+ weights"):
        train(model, data, tmp_path / "out", qat_bits=4, qat_group_size=128)
    quantized = train(model, data, tmp_path / "model", qat_bits=4, **SETTINGS).output
    with pytest.raises(ConfigError, match=r"qat_bits: \S+ is quantized already"):
        train(quantized, data, tmp_path / "out", qat_bits=4, **SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("extra", [{"method": "full", "qat_bits": 2}, {"qat_bits": 4, "grad_checkpoint": 1}])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    model: Path, data: Path, tmp_path: Path, extra: dict[str, Any]
) -> None:
    settings = {**SETTINGS, **extra, "save_every": 3, "eval_every": 4}
    whole = train(model, data, tmp_path / "whole", **settings)

    def stop(_: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, data, tmp_path / "part", stop, **settings)
    rest = train(model, data, tmp_path / "part", resume=True, **settings)
    assert rest.report["train_losses"] == whole.report["train_losses"]
    expected, found = (tensors(run.output / "model.safetensors") for run in (whole, rest))
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())
