"""Mixed precision, floating-point formats, presets and activation importance."""

# ruff: noqa: PLR0917, because pytest passes fixtures by name
from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.exceptions import ConfigError, ToolkitError
from efficientai_toolkit.quantize import PRESETS, QuantizeConfig, QuantizeResult, quantize
from support.engine import MODELS, largest, logits, tensors
from support.models import wide_llama
from support.rows import random_ids, write_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from efficientai_toolkit.quantize.presets import Preset
    from support.figures import Check


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return wide_llama(tmp_path / "model")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., QuantizeResult]:
    """Quantize with a little calibration text."""
    data = write_words(tmp_path / "data", random_ids(24, [40], seed=1))

    def quantize_model(model: Path, **settings: Any) -> QuantizeResult:
        chosen: dict[str, Any] = {
            "group_size": 32,
            "calibration": str(data),
            "sequence_length": 32,
            "output": str(tmp_path / "out"),
            "overwrite": True,
        }
        return quantize(model, **(chosen | settings))

    return quantize_model


def formats(result: QuantizeResult) -> dict[str, str]:
    return {layer.path: layer.format for layer in result.layers}


@pytest.mark.parametrize("rounding", ["rtn", "gptq"])
@pytest.mark.parametrize("bits", [4.6, 6.0, 7.75])
def test_the_size_is_met(
    make: Callable[..., QuantizeResult], model: Path, figure: Check, rounding: str, bits: float
) -> None:
    result = make(model, technique="mixed", target_bpw=bits, rounding=rounding)
    figure(f"mixed precision: size for {bits} bits, {rounding}", abs(result.bits_per_weight / bits - 1), 0.01)
    assert len(set(formats(result).values())) > 1
    assert {entry.layer for entry in result.sensitivity} == set(formats(result))
    # Twice as many values for each bit, so that the squared error shrinks about fourfold.
    assert all(e.kl > 0 and e.errors["2/32"] > 2 * e.errors["4/32"] for e in result.sensitivity)


def test_a_size_in_bytes_and_fixed_layers(make: Callable[..., QuantizeResult], model: Path) -> None:
    uniform = make(model, technique="rtn", calibration=None, bits=4, embedding_bits=8)
    fixed = {"lm_head": 8, "model.embed_tokens": 8}
    result = make(model, technique="mixed", target_bytes=uniform.size_bytes, layers=fixed)
    assert abs(result.size_bytes / uniform.size_bytes - 1) <= 0.01
    assert formats(result)["lm_head"] == formats(result)["model.embed_tokens"] == "8/32"
    assert {entry.layer for entry in result.sensitivity} == set(formats(result)) - set(fixed)


def test_it_loses_less_than_equal_bits(
    make: Callable[..., QuantizeResult], model: Path, figure: Check
) -> None:
    """The rows of some layers are made large, so that not all layers matter alike."""
    weights = tensors(model / "model.safetensors")
    for name, value in weights.items():
        if value.ndim == 2 and "layers.0" in name:
            weights[name] = value * 2.0
    mx.save_safetensors(str(model / "model.safetensors"), {k: mx.array(v) for k, v in weights.items()})
    reference, _ = eat.load(model)

    def divergence(**settings: Any) -> tuple[float, int]:
        result = make(model, layers={"lm_head": 8, "model.embed_tokens": 8}, **settings)
        found = json.loads(
            core.evaluate.divergence(eat.load(result.output)[0], reference, random_ids(20, [40], seed=8))
        )
        return found["mean_kl"], result.size_bytes

    uniform, size = divergence(technique="gptq", bits=3)
    mixed, _ = divergence(technique="mixed", target_bytes=size)
    figure("mixed precision: divergence, as a share of 3 bits", mixed / uniform, 1.0)


def test_sensitivities_are_reused(make: Callable[..., QuantizeResult], model: Path, tmp_path: Path) -> None:
    first = make(model, technique="mixed", target_bpw=6.0)
    kept = tmp_path / "sensitivity.json"
    kept.write_text((first.output / "sensitivity.json").read_text())
    report = tmp_path / "report.json"
    report.write_text((first.output / "quantization.json").read_text())
    for file in (kept, report):
        again = make(model, technique="mixed", target_bpw=6.0, sensitivity=str(file))
        assert again.sensitivity == first.sensitivity
        assert formats(again) == formats(first)
    alone = make(model, technique="mixed", target_bpw=7.5, sensitivity=str(kept), rounding="gptq")
    assert alone.bits_per_weight > first.bits_per_weight
    with pytest.raises(ConfigError, match=r"sensitivity: it has no 2/64 for .*other settings"):
        make(model, technique="mixed", target_bpw=6.0, sensitivity=str(kept), group_size=64)
    kept.write_text("[]")
    with pytest.raises(ConfigError, match=r"sensitivity\.json: expected the sensitivity\.json"):
        make(model, technique="mixed", target_bpw=6.0, sensitivity=str(kept))


def test_it_is_resumed_without_measuring_again(
    make: Callable[..., QuantizeResult], model: Path, tmp_path: Path
) -> None:
    whole = make(model, technique="mixed", target_bpw=6.0, output=str(tmp_path / "whole"))

    def stop(event: eat.callbacks.Event) -> None:
        if getattr(event, "stage", "") == "quantize":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(model, technique="mixed", target_bpw=6.0, callback=stop)
    stages: list[str] = []
    result = make(
        model,
        technique="mixed",
        target_bpw=6.0,
        resume=True,
        overwrite=False,
        callback=lambda event: stages.append(getattr(event, "stage", "")),
    )
    assert "sensitivity" not in stages
    assert result.layers == whole.layers
    ours, expected = (tensors(r.output / "model.safetensors") for r in (result, whole))
    assert all(np.array_equal(ours[key], expected[key]) for key in expected)


@pytest.mark.parametrize("rounding", ["rtn", "gptq"])
def test_mlx_lm_reads_mixed_formats(
    mlx_lm: ModuleType, make: Callable[..., QuantizeResult], model: Path, figure: Check, rounding: str
) -> None:
    result = make(model, technique="mixed", target_bpw=6.0, rounding=rounding)
    ids = np.array(random_ids(2, [13], seed=5), dtype=np.int32)
    theirs, _ = mlx_lm.load(str(result.output))
    figure(f"mixed {rounding}", largest(logits(result.output, ids), np.array(theirs(mx.array(ids)))), 1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs a size: set target_bpw"),
        ({"target_bpw": 1.5}, r"target_bpw is 1\.5, but the model can have 4\.05 to 10\.03 bits per weight"),
        ({"target_bpw": 15.0}, r"target_bpw is 15, but the model can have"),
        ({"target_bpw": 17.0}, r"target_bpw is 17, expected 2 to 16"),
        ({"target_bytes": 1000}, r"target_bytes is 1000, but the model can have .* bytes"),
        ({"target_bpw": 6.0, "target_bytes": 10**6}, "both set"),
        ({"target_bpw": 6.0, "technique": "gptq"}, "which is not set"),
        ({"target_bpw": 6.0, "mode": "mxfp4"}, "chooses the formats itself"),
        ({"target_bpw": 6.0, "layers": {"*": 4}}, "there is no format to choose"),
        ({"target_bpw": 6.0, "sensitivity": "nowhere.json"}, r"sensitivity: nowhere\.json"),
        ({"technique": "rtn", "importance": "nowhere", "calibration": None}, "nowhere"),
        ({"technique": "rtn", "importance": "nowhere"}, "both are set"),
        ({"technique": "gptq", "importance": "nowhere", "calibration": None}, "gptq.* needs calibration"),
    ],
)
def test_bad_settings_are_named(
    make: Callable[..., QuantizeResult],
    model: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ToolkitError, match=message):
        make(model, **({"technique": "mixed"} | settings))
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("mode", "bits", "group_size"), [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_floating_point_formats_are_those_of_mlx(
    mlx_lm: ModuleType,
    make: Callable[..., QuantizeResult],
    model: Path,
    figure: Check,
    mode: str,
    bits: int,
    group_size: int,
    dtype: str,
) -> None:
    before = {
        k: mx.array(v).astype(getattr(mx, dtype)) for k, v in tensors(model / "model.safetensors").items()
    }
    mx.save_safetensors(str(model / "model.safetensors"), before)
    settings: dict[str, Any] = {"mode": mode} if dtype == "float32" else {"layers": {"*": mode}}
    result = make(model, technique="rtn", calibration=None, **settings)
    ours = mx.load(str(result.output / "model.safetensors"))
    assert isinstance(ours, dict)
    found = formats(result)
    for path in (path for path, name in found.items() if name == mode):
        codes, scales = mx.quantize(before[f"{path}.weight"], group_size=group_size, bits=bits, mode=mode)
        assert mx.array_equal(ours[f"{path}.weight"], codes), path
        assert mx.array_equal(ours[f"{path}.scales"], scales), path
        assert f"{path}.biases" not in ours
    assert sum(name == mode for name in found.values()) >= 14
    assert all(0 < layer.weight_error < 0.05 for layer in result.layers)
    ids = np.array(random_ids(2, [13], seed=5), dtype=np.int32)
    theirs, _ = mlx_lm.load(str(result.output))
    theirs.set_dtype(mx.float32)
    quantized, _ = eat.load(result.output, dtype="float32")
    figure(f"{mode} {dtype}", largest(quantized(ids), np.array(theirs(mx.array(ids)))), 1e-4)


def test_importance_is_saved_and_reused(
    make: Callable[..., QuantizeResult], model: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"technique": "rtn", "bits": 3}
    first = make(model, save_importance=True, **settings)
    file = tmp_path / "importance.safetensors"
    file.write_bytes((first.output / "importance.safetensors").read_bytes())
    # Embeddings are looked up: they have no inputs.
    assert set(tensors(file)) == set(formats(first)) - {"model.embed_tokens"}
    calibrated = tensors(first.output / "model.safetensors")
    again = make(model, calibration=None, importance=str(file), **settings)
    reused = tensors(again.output / "model.safetensors")
    assert all(np.array_equal(reused[key], calibrated[key]) for key in calibrated)
    plain = tensors(make(model, calibration=None, **settings).output / "model.safetensors")
    assert any(not np.array_equal(plain[key], calibrated[key]) for key in calibrated)
    mx.save_safetensors(str(file), {"model.layers.0.self_attn.q_proj": mx.ones(5)})
    with pytest.raises(ConfigError, match=r"importance: .*q_proj\" has shape \[5\], expected 128"):
        make(model, calibration=None, importance=str(file), **settings)


def test_what_requantizing_costs_is_told(
    make: Callable[..., QuantizeResult], model: Path, tmp_path: Path
) -> None:
    first = make(model, bits=8, output=str(tmp_path / "first"))
    assert first.requantization_error is None
    costs = [
        make(first.output, dequantize=True, technique="rtn", calibration=None, bits=bits).requantization_error
        or 0.0
        for bits in (4, 3, 2)
    ]
    assert 0 < costs[0] < costs[1] < costs[2] < 0.5


def test_a_preset_sets_what_is_not_given() -> None:
    for name, values in PRESETS.items():
        config = QuantizeConfig(preset=cast("Preset", name))
        assert {key: getattr(config, key) for key in values} == values
    assert QuantizeConfig(preset="q8", bits=4).bits == 4
    assert QuantizeConfig().with_values({"preset": "q8"}).bits == 8
    assert QuantizeConfig(bits=6).with_values({"preset": "q8"}).bits == 6
    changed = QuantizeConfig(preset="q4-best", technique="gptq")
    assert (changed.technique, changed.target_bpw, changed.calibration_sequences) == ("gptq", None, 128)
    by_size = QuantizeConfig(preset="q3", target_bytes=10**9)
    assert (by_size.target_bpw, by_size.target_bytes) == (None, 10**9)
    with pytest.raises(ConfigError, match="preset"):
        QuantizeConfig(preset=cast("Preset", "q1"))


def test_experts_of_a_stack_share_a_format(make: Callable[..., QuantizeResult], tmp_path: Path) -> None:
    config = json.loads((MODELS / "qwen3_moe" / "config.json").read_text())
    config |= {"hidden_size": 64, "head_dim": 16, "moe_intermediate_size": 64, "intermediate_size": 128}
    folder = tmp_path / "experts"
    core.models.create(json.dumps(config | {"initializer_range": 0.15}), str(folder), 3, "float32")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_text((MODELS / "qwen3_moe" / file).read_text())
    result = make(folder, technique="mixed", target_bpw=6.5)
    assert abs(result.bits_per_weight / 6.5 - 1) <= 0.01
    stacks: dict[str, set[str]] = {}
    for path, name in formats(result).items():
        if ".experts." in path:
            block, _, rest = path.partition(".experts.")
            stacks.setdefault(f"{block}.{rest.partition('.')[2]}", set()).add(name)
    assert stacks
    assert all(len(names) == 1 for names in stacks.values())
    assert np.isfinite(logits(result.output, np.array([[5, 6, 7]]))).all()
