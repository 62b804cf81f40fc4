"""Adapters merged into their model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit import _core
from efficientai_toolkit.adapters import fuse
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError, TrainingError
from support.damage import tensor
from support.engine import FIXTURES, MODELS, largest, logits, stored

if TYPE_CHECKING:
    from support.figures import Check

MODEL = MODELS / "llama_gqa"
PEFT = FIXTURES / "peft"
MLX = FIXTURES / "lora" / "gradient"
IDS = np.arange(3, 19)[None]
CLOSE = 1e-4


def random_merge(folder: Path, shape: tuple[str, int, int, float]) -> tuple[Path, Path]:
    """A random model and an adapter of all its layers."""
    family, hidden, blocks, std = shape
    heads = hidden // 64
    sizes = {"vocab_size": 256, "hidden_size": hidden, "intermediate_size": 2 * hidden}
    config = {
        "model_type": family,
        **sizes,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": 64,
        "initializer_range": std,
        "tie_word_embeddings": False,
    }
    (folder / "adapter").mkdir()
    _core.models.create(json.dumps(config), str(folder / "model"), 1)
    rng = np.random.default_rng(2)
    arrays = {}
    for name, weight in stored(folder / "model").items():
        if weight.ndim == 2 and ".layers." in name:
            path, (outputs, inputs) = name.removesuffix(".weight"), weight.shape
            arrays[f"{path}.lora_a"] = mx.array(rng.normal(size=(inputs, 8)) / inputs**0.5, mx.float32)
            arrays[f"{path}.lora_b"] = mx.array(rng.normal(size=(8, outputs)) / 100, mx.float32)
    mx.save_safetensors(str(folder / "adapter" / "adapters.safetensors"), arrays)
    settings = {"lora_parameters": {"rank": 8, "scale": 10.0}}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    return folder / "model", folder / "adapter"


@pytest.mark.parametrize(
    "shape", [("llama", 512, 8, 0.05), ("llama", 128, 16, 0.1), ("qwen3", 256, 8, 0.1)], ids=str
)
def test_wide_and_deep_models_are_merged(
    shape: tuple[str, int, int, float], tmp_path: Path, figure: Check
) -> None:
    model, adapter = random_merge(tmp_path, shape)
    result = fuse(model, adapter, tmp_path / "merged")
    figure(f"merged random {shape}, of its effect", result.error / result.effect, CLOSE)


@pytest.mark.parametrize("adapter", [MLX, PEFT / "patterns", PEFT / "dora"], ids=["mlx", "peft", "dora"])
def test_a_merged_model_is_model_and_adapter(adapter: Path, tmp_path: Path, figure: Check) -> None:
    result = fuse(MODEL, adapter, tmp_path / "merged")
    assert (result.quantized, result.dtype) == (False, "float32")
    figure("effect that a merged model loses", abs(1 - result.kept), CLOSE)
    difference = largest(logits(tmp_path / "merged", IDS), logits(MODEL, IDS, adapter))
    figure(f"merged {adapter.name} logits", difference, CLOSE)
    assert stored(tmp_path / "merged").keys() == stored(MODEL).keys()


def test_a_merge_has_the_number_format_of_most_tensors(tmp_path: Path, figure: Check) -> None:
    base = Path(shutil.copytree(MODEL, tmp_path / "base"))
    mixed = {n: w if w.ndim == 1 else w.astype(mx.bfloat16) for n, w in stored(MODEL).items()}
    mx.save_safetensors(str(base / "model.safetensors"), mixed)
    result = fuse(base, MLX, tmp_path / "merged")
    assert result.dtype == "bfloat16"
    assert {w.dtype for w in stored(tmp_path / "merged").values()} == {mx.bfloat16}
    figure("effect that a merged model of two formats loses", abs(1 - result.kept), 0.02)


def quantized(folder: Path, bits: int) -> Path:
    """The model as MLX quantizes it."""
    shutil.copytree(MODEL, folder)
    # The rows of this model are whole groups of 32 in the second half of its feed-forward layers only.
    arrays: dict[str, Any] = {}
    for name, weight in stored(MODEL).items():
        path = name.removesuffix(".weight")
        if weight.ndim == 2 and weight.shape[-1] % 32 == 0:
            parts = mx.quantize(weight, 32, bits)
            arrays |= dict(zip((name, f"{path}.scales", f"{path}.biases"), parts, strict=True))
        else:
            arrays[name] = weight
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"bits": bits, "group_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_merging_into_a_quantized_model(tmp_path: Path, figure: Check) -> None:
    base = quantized(tmp_path / "base", 8)
    again = fuse(base, MLX, tmp_path / "again")
    assert again.quantized
    assert stored(tmp_path / "again").keys() == stored(base).keys()
    dense = fuse(base, MLX, tmp_path / "dense", dequantize=True)
    assert not dense.quantized
    assert "quantization" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    want = logits(base, IDS, MLX)
    figure("merged and dequantized logits", largest(logits(tmp_path / "dense", IDS), want), CLOSE)
    assert again.error > dense.error
    assert largest(logits(tmp_path / "again", IDS), want) < 0.5 * largest(logits(base, IDS), want)


def small(folder: Path, factor: float) -> Path:
    """An adapter of little effect on the layers that :func:`quantized` packs."""
    shutil.copytree(MLX, folder)
    values = {
        name: value * (factor if name.endswith("lora_b") else 1)
        for name, value in mx.load(str(MLX / "adapters.safetensors")).items()
        if ".down_proj." in name
    }
    mx.eval(values)
    mx.save_safetensors(str(folder / "adapters.safetensors"), values)
    return folder


def test_an_adapter_that_rounding_would_lose_is_refused(tmp_path: Path) -> None:
    base, adapter = quantized(tmp_path / "base", 2), small(tmp_path / "small", 1e-3)
    with pytest.raises(TrainingError, match=r"lose the adapter.*2 bits.*dequantize"):
        fuse(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert fuse(base, adapter, tmp_path / "merged", dequantize=True).kept == pytest.approx(1, abs=0.05)


def test_merges_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadingError, match="does not fit the model"):
        fuse(MODELS / "llama_tied", MLX, tmp_path / "merged")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="overwrite"):
        fuse(MODEL, MLX, tmp_path / "taken")
    copy = shutil.copytree(MODEL, tmp_path / "model")
    with pytest.raises(ConfigError, match="choose another one"):
        fuse(copy, MLX, copy, overwrite=True)
    extra = Path(shutil.copytree(MLX, tmp_path / "adapter"))
    tensor("model.layers.9.mlp.up_proj.lora_a", lambda _: mx.ones((48, 8)), "adapters.safetensors")(extra)
    with pytest.raises(ModelLoadingError, match=r"layers\.9"):
        fuse(MODEL, extra, tmp_path / "merged")
