"""Activations that are quantized at run time, and SmoothQuant, which prepares a model for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.quantize import QuantizeConfig, QuantizeResult, quantize
from support.engine import MODELS, tensors
from support.rows import random_ids, write_words

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer
    from support.figures import Check

WEIGHTS = "model.safetensors"
CALIBRATION: dict[str, Any] = {
    "calibration": str(INSTRUCTIONS / "train.jsonl"),
    "calibration_sequences": 8,
    "sequence_length": 128,
}
OUTLIERS = 40.0


def held_out(tokenizer: Tokenizer) -> list[list[int]]:
    ids = [
        i
        for name in ("valid", "test")
        for i in tokenizer.encode((INSTRUCTIONS / f"{name}.jsonl").read_text())
    ]
    return [ids[start : start + 128] for start in range(0, len(ids) - 127, 128)]


def divergence(
    model: Model,
    reference: Model,
    rows: list[list[int]],
    accuracy: str,
    reference_accuracy: str | None = None,
) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        core.evaluate.divergence(model, reference, rows, accuracy, reference_accuracy)
    )
    return found


@pytest.mark.parametrize("bits", [8, 4])
def test_predictions_hardly_change(bits: int, tmp_path: Path, figure: Check) -> None:
    result = quantize(output=str(tmp_path / "out"), technique="rtn", bits=bits)
    model, tokenizer = eat.load(result.output)
    found = divergence(model, model, held_out(tokenizer), "int8", "f32")
    figure(f"W{bits}A8: divergence from float activations", found["mean_kl"], 0.01)
    figure(f"W{bits}A8: other most likely token", 1 - found["top_agreement"], 0.03)


def with_outliers(folder: Path) -> Path:
    """The embedded model, with large channels behind its norms for which the layers after them make up."""
    shutil.copytree(MODEL, folder)
    weights = {name: np.array(value, dtype=np.float32) for name, value in tensors(folder / WEIGHTS).items()}
    for name, norm in weights.items():
        if name.endswith("layernorm.weight"):
            block, _, kind = name.removesuffix(".weight").rpartition(".")
            channels = np.arange(5, len(norm), 61)
            norm[channels] *= OUTLIERS
            readers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
            for reader in readers if kind == "input_layernorm" else ("mlp.gate_proj", "mlp.up_proj"):
                weights[f"{block}.{reader}.weight"][:, channels] /= OUTLIERS
    mx.save_safetensors(str(folder / WEIGHTS), {name: mx.array(value) for name, value in weights.items()})
    return folder


def test_smoothing_helps_where_channels_have_outliers(tmp_path: Path, figure: Check) -> None:
    path = with_outliers(tmp_path / "model")
    original, tokenizer = eat.load(path)
    rows = held_out(tokenizer)
    exact, _ = eat.load(None)
    assert divergence(original, exact, rows, "f32")["mean_kl"] < 1e-4, "it is another model"

    def lost(name: str, **settings: Any) -> tuple[float, float]:
        output = str(tmp_path / name)
        result = quantize(path, output=output, technique="rtn", bits=8, **CALIBRATION, **settings)
        model, _ = eat.load(result.output)
        by_activations = divergence(model, model, rows, "int8", "f32")["mean_kl"]
        return by_activations, divergence(model, original, rows, "int8")["mean_kl"]

    plain, smoothed = lost("plain"), lost("smoothed", smooth_alpha=0.5)
    figure("W8A8 with outliers: divergence of smoothed by int8, as a share", smoothed[0] / plain[0], 0.5)
    figure("W8A8 with outliers: divergence of smoothed, as a share", smoothed[1] / plain[1], 0.5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_words(tmp_path / "data", random_ids(20, [30], seed=4))


def smooth(data: Path, output: Path, **settings: Any) -> QuantizeResult:
    common: dict[str, Any] = {
        "group_size": 32,
        "calibration": str(data),
        "calibration_sequences": 8,
        "sequence_length": 32,
        "smooth_alpha": 0.5,
    }
    return quantize(MODELS / "llama_bias", output=str(output), **(common | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"technique": "rtn"},
        {"technique": "rtn", "mode": "mxfp8"},
        {"technique": "gptq"},
        {"technique": "awq"},
        {"technique": "learned"},
        {"technique": "mixed", "target_bpw": 8.0, "rounding": "gptq"},
    ],
    ids=lambda settings: f"{settings['technique']}-{settings.get('mode', 'affine')}",
)
def test_every_technique_takes_smoothed_layers(
    settings: dict[str, Any], data: Path, tmp_path: Path, figure: Check
) -> None:
    result = smooth(data, tmp_path / "out", **({"bits": 8} if "mode" not in settings else {}), **settings)
    in_blocks = [layer for layer in result.layers if ".layers." in layer.path]
    assert in_blocks
    assert all(layer.technique.startswith("smoothquant, ") for layer in in_blocks)
    model, reference = (eat.load(path)[0] for path in (result.output, MODELS / "llama_bias"))
    found = divergence(model, reference, random_ids(3, [17], seed=5), "f32")["mean_kl"]
    # Eight bits without scales leave mixed precision about seven.
    coarse = "mode" in settings or "target_bpw" in settings
    figure(f"smoothed, {settings['technique']}: divergence in 8 bits", found, 0.05 if coarse else 0.005)


def test_an_interrupted_run_is_resumed_with_its_norms(data: Path, tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    smooth(data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        smooth(data, tmp_path / "part", callback=stop)
    smooth(data, tmp_path / "part", resume=True)
    whole, part = (tensors(tmp_path / name / WEIGHTS) for name in ("whole", "part"))
    assert whole.keys() == part.keys()
    for name, expected in whole.items():
        np.testing.assert_array_equal(part[name], expected, err_msg=name)


def test_evaluation_with_int8_activations(data: Path, tmp_path: Path) -> None:
    result = smooth(data, tmp_path / "out", bits=8)
    model, tokenizer = eat.load(result.output)
    text: dict[str, Any] = {"data": str(data / "train.jsonl"), "mask_prompt": False}
    found = {
        accuracy: eat.lora.evaluate(model, tokenizer, **text, accuracy=accuracy).metrics["perplexity"]
        for accuracy in (None, "f32", "int8")
    }
    assert found[None] == found["f32"]
    assert found["int8"] == pytest.approx(found["f32"], rel=0.01)


def test_what_cannot_be_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"smooth_alpha is 1\.5, expected a value from 0 to 1"):
        QuantizeConfig(smooth_alpha=1.5)
    with pytest.raises(ConfigError, match="smooth_alpha"):
        QuantizeConfig(smooth_alpha="much")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="save it in a run without smooth_alpha"):
        QuantizeConfig(smooth_alpha=0.5, save_importance=True)
    model, tokenizer = core.models.load(str(MODELS / "llama_bias"))
    config = {"technique": "rtn", "group_size": 32, "smooth_alpha": 0.5, "output": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=r"smooth_alpha needs calibration text: set calibration"):
        core.quantize.quantize(model, tokenizer, json.dumps(config), lambda _: None)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="`accuracy` must be one of f32, bf16, int8"):
        eat.lora.evaluate(model, tokenizer, data=str(data), accuracy="int4")
    with pytest.raises(ConfigError, match='reference_accuracy is "int4", expected f32, bf16 or int8'):
        core.evaluate.divergence(model, model, [[1, 2]], None, "int4")
