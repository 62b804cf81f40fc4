"""Quantized models: values against MLX and mlx-lm, what calibration wins, resuming, and bad input."""

# ruff: noqa: PLR0917, because pytest passes fixtures by name
from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.exceptions import (
    ConfigError,
    DatasetError,
    ModelLoadingError,
    ToolkitError,
    TrainingError,
)
from efficientai_toolkit.quantize import QuantizeConfig, QuantizeResult, quantize
from support.command import PROGRAM, run
from support.engine import MODELS, largest, logits, tensors
from support.rows import random_ids, write_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.figures import Check

FAMILIES = [
    "llama_bias", "llama_tied", "mistral_window", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2",
    "gemma3_text", "phi3", "smollm3", "lfm2", "lfm2_moe", "gpt_oss",
]  # fmt: skip

READABLE = ["llama_gqa", "llama_tied", "qwen2", "qwen3", "phi3"]
"""Models that mlx-lm reads; for quantized experts, it needs a later MLX."""

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "head_dim": 16,
    "moe_intermediate_size": 64,
    "rope_theta": 1e4,
}


def make_model(name: str, folder: Path, dtype: str = "float32", **changes: Any) -> Path:
    """A random model whose rows are whole groups of 32 and 64."""
    config = json.loads((MODELS / name / "config.json").read_text())
    config |= {key: size for key, size in SIZES.items() if key in config or key == "rope_theta"}
    config |= {"vocab_size": 256} | changes
    if name in READABLE:
        for key in ("rope_parameters", "layer_types", "sliding_window"):
            config.pop(key, None)
    if "num_local_experts" in config:
        config.setdefault("num_experts", config["num_local_experts"])
    core.models.create(json.dumps(config | {"initializer_range": 0.15}), str(folder), 3, dtype)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODELS / name / file, folder / file)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_words(tmp_path / "data", random_ids(24, [40], seed=1))


@pytest.fixture
def make(tmp_path: Path, data: Path) -> Callable[..., QuantizeResult]:
    """Quantize with a little calibration text."""

    def quantize_model(model: Path, **settings: Any) -> QuantizeResult:
        chosen: dict[str, Any] = {
            "group_size": 32,
            "calibration": str(data),
            "sequence_length": 32,
            "output": str(tmp_path / "out"),
        }
        return quantize(model, **(chosen | settings))

    return quantize_model


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_without_a_search_is_that_of_mlx(
    make: Callable[..., QuantizeResult], tmp_path: Path, bits: int, group_size: int, dtype: str
) -> None:
    model = make_model("llama_gqa", tmp_path / "model", dtype)
    settings = {"technique": "rtn", "range_search": False, "calibration": None, "embedding_bits": bits}
    result = make(model, bits=bits, group_size=group_size, **settings)
    ours, before = (
        mx.load(str(result.output / "model.safetensors")),
        mx.load(str(model / "model.safetensors")),
    )
    assert isinstance(ours, dict)
    assert isinstance(before, dict)
    for name in (name for name in ours if name.endswith(".scales")):
        path = name.removesuffix(".scales")
        expected = mx.quantize(before[f"{path}.weight"], group_size=group_size, bits=bits)
        for leaf, value in zip(("weight", "scales", "biases"), expected, strict=True):
            assert mx.array_equal(ours[f"{path}.{leaf}"], value), f"{path}.{leaf}"


def test_mxfp4_is_that_of_mlx(make: Callable[..., QuantizeResult], tmp_path: Path) -> None:
    model = make_model("llama_gqa", tmp_path / "model")
    result = make(model, technique="rtn", mode="mxfp4", calibration=None)
    ours, before = (
        mx.load(str(result.output / "model.safetensors")),
        mx.load(str(model / "model.safetensors")),
    )
    assert isinstance(ours, dict)
    assert isinstance(before, dict)
    path = "model.layers.1.mlp.down_proj"
    codes, scales = mx.quantize(before[f"{path}.weight"], group_size=32, bits=4, mode="mxfp4")
    assert mx.array_equal(ours[f"{path}.weight"], codes)
    assert mx.array_equal(ours[f"{path}.scales"], scales)


@pytest.mark.parametrize("technique", ["rtn", "gptq"])
@pytest.mark.parametrize("name", READABLE)
def test_mlx_lm_reads_the_result(
    mlx_lm: ModuleType,
    make: Callable[..., QuantizeResult],
    tmp_path: Path,
    figure: Check,
    name: str,
    technique: str,
) -> None:
    model = make_model(name, tmp_path / "model")
    result = make(
        model, technique=technique, layers={"model.layers.1.*": 6, "model.layers.0.mlp.down_proj": "dense"}
    )
    ids = np.array(random_ids(2, [13], seed=5), dtype=np.int32)
    theirs, _ = mlx_lm.load(str(result.output))
    figure(f"{name} {technique}", largest(logits(result.output, ids), np.array(theirs(mx.array(ids)))), 1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(make: Callable[..., QuantizeResult], tmp_path: Path, figure: Check, name: str) -> None:
    model = make_model(name, tmp_path / "model")
    result = make(model, bits=8, layers={"model.layers.0.*": 6})
    (reference, _), (quantized, _) = eat.load(model), eat.load(result.output)
    rows = random_ids(8, [24], seed=5)
    found = json.loads(core.evaluate.divergence(quantized, reference, rows))
    figure(f"{name}: divergence of 6 and 8 bits", found["mean_kl"], 0.05)
    packed = [layer.path for layer in result.layers]
    assert len(packed) == len(set(packed))
    assert result.bits_per_weight < 12


def test_calibration_wins_back_what_rounding_loses(
    make: Callable[..., QuantizeResult], tmp_path: Path, data: Path
) -> None:
    """On outputs, which random weights have too."""
    model = make_model("llama_gqa", tmp_path / "model")
    reference, tokenizer = eat.load(model)
    rows = [tokenizer.encode(row) for row in data.joinpath("valid.jsonl").read_text().splitlines()]
    rows += random_ids(20, [40], seed=8)

    def divergence(**settings: Any) -> float:
        result = make(model, bits=3, overwrite=True, **settings)
        quantized, _ = eat.load(result.output)
        found: dict[str, float] = json.loads(core.evaluate.divergence(quantized, reference, rows))
        return found["mean_kl"]

    plain = divergence(technique="rtn", range_search=False, calibration=None)
    # Without activations, ranges are not searched.
    assert divergence(technique="rtn", calibration=None) == plain
    assert divergence(technique="rtn") < plain
    assert divergence(technique="gptq") < 0.8 * plain


@pytest.mark.parametrize("name", ["llama_gqa", "qwen3_moe"])
def test_an_interrupted_run_is_resumed(
    make: Callable[..., QuantizeResult], tmp_path: Path, name: str
) -> None:
    model = make_model(name, tmp_path / "model", "bfloat16")
    whole = make(model, output=str(tmp_path / "whole"))

    def stop(event: eat.callbacks.Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(model, callback=stop)
    out = tmp_path / "out"
    assert sorted(entry.name for entry in (out / "checkpoints").iterdir()) == ["block-0000", "identity.json"]
    assert not (out / "config.json").exists()
    with pytest.raises(TrainingError, match="--resume"):
        make(model)
    with pytest.raises(ConfigError, match=r"started with bits 4, not 3"):
        make(model, resume=True, bits=3)
    result = make(model, resume=True)
    assert not (out / "checkpoints").exists()
    assert result.layers == whole.layers
    ours, expected = tensors(out / "model.safetensors"), tensors(whole.output / "model.safetensors")
    assert ours.keys() == expected.keys()
    assert all(np.array_equal(ours[key], expected[key]) for key in ours)
    assert json.loads((out / "config.json").read_text()) == json.loads(
        (whole.output / "config.json").read_text()
    )


def test_experts_without_tokens_are_reported(make: Callable[..., QuantizeResult], tmp_path: Path) -> None:
    model = make_model("qwen3_moe", tmp_path / "model", num_experts=32, num_experts_per_tok=1)
    data = write_words(tmp_path / "little", random_ids(1, [9], seed=1))
    result = make(model, calibration=str(data), sequence_length=8)
    unseen = [layer for layer in result.layers if layer.tokens == 0]
    assert {layer.path for layer in unseen} == set(result.uncalibrated)
    assert {layer.technique for layer in unseen} == {"rtn"}
    assert any(".experts." in path for path in result.uncalibrated)
    assert np.isfinite(logits(result.output, np.array([[5, 6, 7]]))).all()


def test_routers_stay_dense_and_patterns_count(make: Callable[..., QuantizeResult], tmp_path: Path) -> None:
    model = make_model("qwen3_moe", tmp_path / "model")
    result = make(model, layers={"*.down_proj": 6, "model.layers.0.*": "8/64", "lm_head": "dense"})
    formats = {layer.path: layer.format for layer in result.layers}
    assert not any(path.endswith(".gate") for path in formats)
    assert formats["model.layers.0.self_attn.q_proj"] == "8/64"
    assert formats["model.layers.2.mlp.experts.0.down_proj"] == "6/32"
    assert formats["model.layers.1.self_attn.q_proj"] == "4/32"
    assert formats["model.embed_tokens"] == "8/32"
    assert "lm_head" not in formats


@pytest.mark.parametrize("setting", [8, "dense"])
def test_experts_of_one_stack_have_one_format(
    make: Callable[..., QuantizeResult], tmp_path: Path, setting: object
) -> None:
    model = make_model("qwen3_moe", tmp_path / "model")
    with pytest.raises(ConfigError, match=r"experts\.\d+\.up_proj has another format.*switch_mlp\.up_proj"):
        make(model, layers={"*.experts.3.up_proj": setting})
    assert not (tmp_path / "out").exists()


def test_quantized_models_are_quantized_again_on_request(
    make: Callable[..., QuantizeResult], tmp_path: Path
) -> None:
    first = make(make_model("llama_gqa", tmp_path / "model"), bits=8, output=str(tmp_path / "first"))
    with pytest.raises(ConfigError, match=r"embed_tokens is quantized already.*--dequantize"):
        make(first.output)
    assert make(first.output, dequantize=True).bits_per_weight < first.bits_per_weight


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"technique": "magic"}, ConfigError, "technique"),
        ({"bits": 7}, ConfigError, "not 7 bits"),
        ({"group_size": 128}, ConfigError, r"have 64 weights, which is not a multiple of 128.*=dense"),
        ({"layers": {"*.nothing": 4}}, ConfigError, r"no layer matches \"\*\.nothing\""),
        ({"layers": {"*": "four"}}, ConfigError, r"layers: \*: format \"four\": expected bits"),
        ({"layers": {"[": 4}}, ConfigError, r"layers: \["),
        ({"layers": {"*": "dense"}}, ConfigError, "nothing to quantize"),
        ({"mode": "mxfp4", "bits": 8}, ConfigError, "mxfp4.*4 bits"),
        ({"damping": 0.0}, ConfigError, "damping"),
        ({"sequence_length": 4096}, DatasetError, "984 tokens, too few .* of 4096"),
        ({"calibration": "nowhere"}, DatasetError, "no folder or file nowhere"),
        ({"resume": True}, TrainingError, "no run to resume"),
        ({"bit": 4}, ConfigError, "did you mean `bits`"),
    ],
)
def test_bad_settings_are_named(
    make: Callable[..., QuantizeResult],
    tmp_path: Path,
    settings: dict[str, Any],
    error: type[ToolkitError],
    message: str,
) -> None:
    model = make_model("llama_gqa", tmp_path / "model")
    with pytest.raises(error, match=message):
        make(model, **settings)
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_named(make: Callable[..., QuantizeResult], tmp_path: Path) -> None:
    model = make_model("llama_gqa", tmp_path / "model")
    weights = tensors(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    mx.save_safetensors(
        str(model / "model.safetensors"), {key: mx.array(value) for key, value in weights.items()}
    )
    for settings in ({"technique": "rtn", "calibration": None}, {"technique": "gptq"}):
        with pytest.raises(ModelLoadingError, match=r"layers\.1\.mlp\.up_proj.*(NaN at \[3, 5\]|not finite)"):
            make(model, **settings)
        assert not (tmp_path / "out" / "config.json").exists()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_the_model_itself_is_not_overwritten(make: Callable[..., QuantizeResult], tmp_path: Path) -> None:
    model = make_model("llama_gqa", tmp_path / "model")
    with pytest.raises(ToolkitError, match="model"):
        make(model, output=str(model), overwrite=True)
    assert (model / "model.safetensors").exists()


def test_the_command(tmp_path: Path, data: Path) -> None:
    model, out = make_model("llama_gqa", tmp_path / "model"), tmp_path / "out"
    words = [
        str(PROGRAM),
        "quantized-model-benchmarks:quantize",
        "--model-path",
        str(model),
        "--output",
        str(out),
    ]
    words += ["--bits", "4", "--group-size", "32", "--calibration", str(data), "--sequence-length", "32"]
    check = run([word.replace("benchmarks:quantize", "benchmarks:validate") for word in words])
    assert check.returncode == 0, check.stdout + check.stderr
    assert "960 tokens in 30 sequences; 16 layers to quantize" in check.stdout
    assert not out.exists()
    done = run(
        [*words, "--layer", "lm_head=6", "--layer", "*.o_proj=dense", "--json", "--progress", "silent"]
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bits_per_weight"] < 16
    assert "quantization" in json.loads((out / "config.json").read_text())
    report = json.loads((out / "quantization.json").read_text())
    assert report["config"]["layers"] == {"lm_head": 6, "*.o_proj": "dense"}
    again = run(words)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_a_configuration_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("bits: 3\nlayers:\n  lm_head: 8\n  '*.down_proj': 4/32\n")
    config = QuantizeConfig.from_file(path)
    assert (config.bits, config.layers) == (3, {"lm_head": 8, "*.down_proj": "4/32"})
