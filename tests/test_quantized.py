"""Quantized checkpoints: against mlx-lm, live, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from efficientai_toolkit import _core
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError
from support.engine import MODELS, largest, logits, train
from support.rows import random_ids, words, write_words

if TYPE_CHECKING:
    from support.figures import Check

MODEL = MODELS / "llama_gqa"
WEIGHTS = "model.safetensors"


def quantized(source: Path, target: Path, bits: int, group_size: int) -> Path:
    """What mlx-lm's converter leaves behind: every matrix whose rows are whole groups is quantized."""
    shutil.copytree(source, target)
    tensors: dict[str, Any] = {}
    for name, value in load_file(target / WEIGHTS).items():
        if value.ndim != 2 or value.shape[1] % group_size:
            tensors[name] = value
            continue
        layer = name.removesuffix(".weight")
        parts = mx.quantize(mx.array(value), group_size=group_size, bits=bits)
        for part, packed in zip(("weight", "scales", "biases"), parts, strict=True):
            tensors[f"{layer}.{part}"] = np.array(packed)
    save_file(tensors, target / WEIGHTS, metadata={"format": "mlx"})
    config = json.loads((target / "config.json").read_text())
    config["quantization"] = {"group_size": group_size, "bits": bits}
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.fixture
def ids() -> np.ndarray:
    return np.array(random_ids(3, [17], seed=5), dtype=np.int32)


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (8, 32), (3, 32)])
def test_logits_are_those_of_mlx_lm(
    bits: int, group_size: int, ids: np.ndarray, tmp_path: Path, figure: Check
) -> None:
    folder = quantized(MODEL, tmp_path / "model", bits, group_size)
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    mx.disable_compile()
    try:
        import mlx_lm

        model, _ = mlx_lm.load(str(folder))
        theirs = np.array(model(mx.array(ids)).astype(mx.float32))
    finally:
        mx.enable_compile()
        mx.set_default_device(device)
    ours = logits(folder, ids)
    assert largest(ours, logits(MODEL, ids)) > 1e-3, "the checkpoint is not quantized"
    figure(f"mlx-lm {bits} bits logits", largest(ours, theirs), 1e-4)


def test_quantizing_at_load_gives_the_same_model(ids: np.ndarray, tmp_path: Path) -> None:
    folder = quantized(MODEL, tmp_path / "model", 4, 32)
    model, _ = _core.models.load(str(MODEL), None, "float32", 4, 32)
    np.testing.assert_allclose(np.asarray(model(ids)), logits(folder, ids), atol=1e-5)


def test_generation_tells_how_exactly_it_computed(tmp_path: Path) -> None:
    folder = quantized(MODEL, tmp_path / "model", 4, 32)
    model, tokenizer = _core.models.load(str(folder))

    def report(**settings: Any) -> dict[str, Any]:
        config = json.dumps({"max_tokens": 4, **settings})
        found: dict[str, Any] = json.loads(
            _core.generate.generate(model, tokenizer, words([5, 6, 7]), config, None)
        )
        return found

    for accuracy in ("f32", "bf16", "int8"):
        assert report(accuracy=accuracy)["accuracy"] == accuracy
    assert report()["accuracy"] in {"f32", "bf16", "int8"}
    dense, tokenizer = _core.models.load(str(MODEL))
    config = json.dumps({"max_tokens": 1})
    assert json.loads(_core.generate.generate(dense, tokenizer, words([5]), config, None))["accuracy"] is None


def test_adapters_are_trained_on_a_quantized_base(tmp_path: Path) -> None:
    folder = quantized(MODEL, tmp_path / "model", 4, 32)
    data = write_words(tmp_path / "data", random_ids(4, [24], seed=6))
    run = train(folder, data, tmp_path / "adapter", iters=15, lr=1e-2)
    assert run.losses[15] < run.losses[1] - 0.3
    assert set(run.adapter) == set(train(MODEL, data, tmp_path / "dense", iters=1).adapter)


def test_full_training_of_packed_weights_is_refused(tmp_path: Path) -> None:
    folder = quantized(MODEL, tmp_path / "model", 4, 32)
    data = write_words(tmp_path / "data", random_ids(4, [24], seed=6))
    with pytest.raises(ConfigError, match="is quantized; load a dense model"):
        train(folder, data, tmp_path / "out", iters=1, method="full")
    with pytest.raises(ConfigError, match="bits is for method"):
        train(MODEL, data, tmp_path / "out", iters=1, method="full", bits=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 7, "group_size": 32}, "7"),
        ({"bits": 4}, "group_size"),
        ({"bits": 4, "group_size": 32, "mode": "nvfp4"}, "nvfp4"),
        ({"bits": 8, "group_size": 32}, "does not fit"),
    ],
    ids=["bits", "no group", "mode", "other bits"],
)
def test_wrong_descriptions_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = quantized(MODEL, tmp_path / "model", 4, 32)
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadingError, match=message):
        _core.models.load(str(folder))


def test_a_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="7"):
        _core.models.load(str(MODEL), None, None, 7)
