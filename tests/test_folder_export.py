"""Folders for vLLM and transformers, decoded by the formulas of AutoAWQ, GPTQModel and compressed-tensors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError
from support.affine import Affine, affine_decoder
from support.decoders import FAMILIES, random_adapter, random_decoder
from support.engine import logits

IDS = np.random.default_rng(3).integers(1, 2048, size=(1, 21))
QUERY = "model.layers.0.self_attn.q_proj"
FIRST = "model.layers.0.mlp.down_proj"
"""The first linear layer by name."""


def export(source: Path, output: Path, **settings: Any) -> Any:
    return eat.export(source, output=output, **settings)


def nibbles(words: np.ndarray, bits: int) -> np.ndarray:
    """All codes of the words of each row, the lowest first."""
    columns = [(words.astype(np.int64) >> shift) & ((1 << bits) - 1) for shift in range(0, 32, bits)]
    return np.stack(columns, axis=-1).reshape(len(words), -1)


def read_awq(tensors: dict[str, np.ndarray], layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AutoAWQ's ``unpack_awq`` and ``reverse_awq_order``; codes, zeros and scales of outputs."""
    order = [0, 4, 1, 5, 2, 6, 3, 7]

    def unpack(words: np.ndarray) -> np.ndarray:
        codes = nibbles(words, 4).reshape(len(words), -1, 8)
        return codes[:, :, order].reshape(len(words), -1)

    qweight, qzeros, scales = (tensors[f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales"))
    return unpack(qweight).T, unpack(qzeros).T, scales.T


def read_gptq(
    tensors: dict[str, np.ndarray], layer: str, bits: int, offset: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The dequantization of GPTQModel's torch kernel."""
    qweight, qzeros, scales = (tensors[f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales"))
    zeros = (nibbles(qzeros, bits) + offset) & ((1 << bits) - 1)
    return nibbles(qweight.T, bits), zeros.T, scales.T


def read_packed(tensors: dict[str, Any], layer: str, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``unpack_from_int32`` of compressed-tensors: signed codes and zero points."""
    packed, zeros, scales, shape = (
        np.array(tensors[f"{layer}.weight_{part}"]) for part in ("packed", "zero_point", "scale", "shape")
    )
    half = 1 << (bits - 1)
    codes = nibbles(packed, bits)[:, : shape[1]] - half
    points = nibbles(zeros.T, bits).T[: shape[0]] - half
    return codes + half, points + half, scales


def assert_same(found: tuple[np.ndarray, np.ndarray, np.ndarray], expected: Affine) -> None:
    """Codes, zero points and scales are those of the source; a group may count from the other end."""
    codes, zeros, scales = found
    size = codes.shape[1] // zeros.shape[1]
    turned = scales != expected.scales
    top = np.maximum(expected.codes.max(), zeros.max())
    wide = np.repeat(turned, size, axis=1)
    np.testing.assert_array_equal(np.where(turned, -scales, scales), expected.scales)
    np.testing.assert_array_equal(np.where(wide, top - codes, codes), expected.codes)
    np.testing.assert_array_equal(np.where(turned, top - zeros, zeros), expected.zeros)
    assert not turned[expected.zeros != 0].any()


@pytest.mark.parametrize(
    ("bits", "settings"),
    [
        (4, {"format": "awq"}),
        (4, {"format": "gptq"}),
        (8, {"format": "gptq"}),
        (4, {"format": "gptq", "checkpoint_format": "gptq_v2"}),
        (4, {"format": "compressed-tensors"}),
        (8, {"format": "compressed-tensors"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_whole_zero_points_are_kept_exactly(bits: int, settings: dict[str, Any], tmp_path: Path) -> None:
    layers = affine_decoder(tmp_path / "model", lambda _: (bits, 32))
    result = export(tmp_path / "model", tmp_path / "out", requantize=False, **settings)
    assert (result.exact, result.largest_difference, result.compared) == (True, 0.0, "weights")
    kind = settings["format"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    quantization = config["quantization_config"]
    assert quantization["quant_method"] == kind
    assert config["torch_dtype"] == "float16"
    assert "quantization" not in config
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    hidden = [layer for layer in layers if layer != "lm_head"]
    assert result.types == {f"int{bits}": len(hidden), "float16": 7}
    for layer in hidden:
        if kind == "awq":
            assert_same(read_awq(tensors, layer), layers[layer])
        elif kind == "gptq":
            offset = int("checkpoint_format" not in settings)
            assert quantization["checkpoint_format"] == ("gptq" if offset else "gptq_v2")
            parts = read_gptq(tensors, layer, bits, offset)
            # Readers that do not mask zero points after adding 1 see the same numbers.
            assert (nibbles(tensors[f"{layer}.qzeros"], bits) + offset < 1 << bits).all()
            assert_same(parts, layers[layer])
        else:
            weights = quantization["config_groups"]["group_0"]["weights"]
            assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (bits, 32, False)
            assert_same(read_packed(tensors, layer, bits), layers[layer])
    if kind != "compressed-tensors":
        found, expected = logits(tmp_path / "out", IDS), logits(tmp_path / "model", IDS)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "lm_head" in str(quantization)


def between(rng: np.random.Generator, shape: tuple[int, int], bits: int) -> np.ndarray:
    """Zero points that are no whole numbers."""
    return rng.integers(1, (1 << bits) - 2, size=shape) + 0.25


def outside(rng: np.random.Generator, shape: tuple[int, int], bits: int) -> np.ndarray:
    """Groups of one sign."""
    del rng
    return np.full(shape, float(2 << bits))


@pytest.mark.parametrize("kind", ["awq", "gptq", "compressed-tensors"])
@pytest.mark.parametrize(
    ("zeros", "note", "most"), [(between, "between two numbers", 0.04), (outside, "out of range", 0.05)]
)
def test_other_zero_points_are_rounded_or_refused(
    kind: Any, zeros: Any, note: str, most: float, tmp_path: Path
) -> None:
    layers = affine_decoder(tmp_path / "model", zeros=zeros)
    with pytest.raises(ConfigError, match=rf"{FIRST} has 256 groups whose zero point .*`requantize`"):
        export(tmp_path / "model", tmp_path / "out", format=kind, requantize=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    result = export(tmp_path / "model", tmp_path / "out", format=kind)
    assert result.exact is False
    assert 1e-3 < result.largest_difference < most
    count = sum(layer.zeros.size for path, layer in layers.items() if path != "lm_head")
    assert any(f"{count:,} groups have zero points {note}" in text for text in result.notes)


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_of_the_quantizer_are_kept_without_range_search(bits: int, tmp_path: Path) -> None:
    source = random_decoder(tmp_path / "model")
    eat.quantize.quantize(
        source, technique="rtn", bits=bits, group_size=32, range_search=False, output=str(tmp_path / "packed")
    )
    result = export(tmp_path / "packed", tmp_path / "out", format="gptq", requantize=False)
    # Scales of float32 are rounded to float16.
    assert result.largest_difference < 1e-3


def test_more_bits_hold_zero_points_between_codes(tmp_path: Path) -> None:
    affine_decoder(tmp_path / "model", zeros=between)
    narrow, wide = (
        export(tmp_path / "model", tmp_path / kind, format="gptq", type=kind) for kind in ("int4", "int8")
    )
    assert wide.largest_difference < narrow.largest_difference / 8


@pytest.mark.parametrize("kind", ["awq", "gptq", "compressed-tensors"])
def test_3_bits_are_refused_unless_4_may_hold_them(kind: Any, tmp_path: Path) -> None:
    layers = affine_decoder(tmp_path / "model", lambda _: (3, 32))
    with pytest.raises(
        ConfigError, match=rf"{FIRST} has 3 bits, {kind} holds 4.*: type int4 stores the same"
    ):
        export(tmp_path / "model", tmp_path / "out", format=kind)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="`type` must be one of auto, int4"):
        export(tmp_path / "model", tmp_path / "out", format=kind, type="int3")
    result = export(tmp_path / "model", tmp_path / "out", format=kind, type="int4", requantize=False)
    assert result.exact is True
    if kind == "awq":
        found = read_awq(load_file(tmp_path / "out" / "model.safetensors"), QUERY)
        np.testing.assert_array_equal(found[0], layers[QUERY].codes)


def test_awq_has_4_bits_only(tmp_path: Path) -> None:
    affine_decoder(tmp_path / "model", lambda path: (8, 64) if path == QUERY else (4, 64))
    with pytest.raises(ConfigError, match=rf"{QUERY} has 8 bits, awq holds 4: .*gptq and compressed-tensors"):
        export(tmp_path / "model", tmp_path / "out", format="awq")
    with pytest.raises(ConfigError, match=f"{QUERY} is in 8 bits .* would round again"):
        export(tmp_path / "model", tmp_path / "out", format="awq", type="int4", requantize=False)
    result = export(tmp_path / "model", tmp_path / "out", format="awq", type="int4")
    assert any("1 quantized layers were rounded again" in note for note in result.notes)
    assert 1e-3 < result.largest_difference < 0.1


def mixed(path: str) -> tuple[int, int] | None:
    """8 bits in two layers, other groups in a third, and one that is dense."""
    if path.endswith(("0.self_attn.v_proj", "1.mlp.down_proj")):
        return 8, 64
    if path.endswith("1.self_attn.o_proj"):
        return 4, 64
    return None if path.endswith("0.mlp.down_proj") else (4, 32)


def test_layers_of_gptq_may_differ(tmp_path: Path) -> None:
    affine_decoder(tmp_path / "model", mixed)
    result = export(tmp_path / "model", tmp_path / "out", format="gptq", requantize=False)
    assert result.exact is True
    quantization = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    rules = quantization["dynamic"]

    def found(path: str) -> dict[str, int] | None:
        matching = [rule for rule in rules if re.match(rule[2:], path)]
        assert len(matching) <= 1
        return rules[matching[0]] if matching and matching[0].startswith("+:") else None

    # What vLLM computes as one layer is of one format.
    attention = "model.layers.0.self_attn"
    for name in ("q_proj", "k_proj", "v_proj", "qkv_proj"):
        assert found(f"{attention}.{name}") == {"bits": 8, "group_size": 32}
    assert found("model.layers.1.mlp.down_proj") == {"bits": 8, "group_size": 64}
    assert found("model.layers.1.self_attn.o_proj") == {"bits": 4, "group_size": 64}
    assert found("model.layers.1.self_attn.q_proj") is None
    assert any(rule.startswith("-:") and re.match(rule[2:], "model.layers.0.mlp.down_proj") for rule in rules)
    expected = logits(tmp_path / "model", IDS)
    assert np.abs(logits(tmp_path / "out", IDS) - expected).max() < 1e-4 * np.abs(expected).max()


def test_layers_of_compressed_tensors_may_differ(tmp_path: Path) -> None:
    affine_decoder(tmp_path / "model", mixed)
    assert export(tmp_path / "model", tmp_path / "out", format="compressed-tensors").exact is True
    quantization = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    groups = quantization["config_groups"].values()
    named = {path: group["weights"] for group in groups for path in group["targets"]}
    assert len(named) == sum(len(group["targets"]) for group in groups) == 13
    assert (named[QUERY]["num_bits"], named[QUERY]["group_size"]) == (8, 32)
    assert quantization["ignore"] == ["model.layers.0.mlp.down_proj", "lm_head"]


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_models_are_rounded(family: str, tmp_path: Path) -> None:
    random_decoder(tmp_path / "model", family)
    result = export(tmp_path / "model", tmp_path / "out", format="gptq", group_size=32)
    assert 0.01 < result.largest_difference < 0.12
    assert "rounded to nearest" in result.notes[0]
    expected = logits(tmp_path / "model", IDS)
    wide = export(tmp_path / "model", tmp_path / "wide", format="gptq", type="int8", group_size=32)
    assert wide.largest_difference < 0.006
    assert np.abs(logits(tmp_path / "wide", IDS) - expected).max() < 0.05 * np.abs(expected).max()


def test_zero_and_one_sided_groups_of_dense_models(tmp_path: Path) -> None:
    random_decoder(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors[f"{QUERY}.weight"][:8] = 0
    tensors[f"{QUERY}.weight"][8:16] = np.abs(tensors[f"{QUERY}.weight"][8:16]) + 0.1
    tensors[f"{QUERY}.weight"][16:24] = -0.125
    save_file(tensors, path, metadata={"format": "pt"})
    for kind in ("awq", "gptq"):
        export(tmp_path / "model", tmp_path / kind, format=kind)
        stored = load_file(tmp_path / kind / "model.safetensors")
        codes, zeros, scales = read_awq(stored, QUERY) if kind == "awq" else read_gptq(stored, QUERY, 4, 1)
        found = np.repeat(scales, 64, axis=1) * (codes - np.repeat(zeros, 64, axis=1))
        weight = tensors[f"{QUERY}.weight"]
        np.testing.assert_array_equal(found[:8], 0)
        np.testing.assert_allclose(found[16:24], -0.125, rtol=1e-3)
        assert np.abs(found - weight).max() < 0.75 * np.abs(scales).max()


def test_w8a8_has_a_scale_for_each_row(tmp_path: Path) -> None:
    random_decoder(tmp_path / "model")
    result = export(tmp_path / "model", tmp_path / "out", format="compressed-tensors", type="w8a8")
    assert result.largest_difference < 0.005
    weight = load_file(tmp_path / "model" / "model.safetensors")[f"{QUERY}.weight"]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    scale = np.abs(weight).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(stored[f"{QUERY}.weight_scale"], scale, rtol=1e-6)
    np.testing.assert_array_equal(stored[f"{QUERY}.weight"], np.rint(weight / scale).astype(np.int8))
    quantization = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert quantization["format"] == "int-quantized"
    assert quantization["config_groups"]["group_0"]["input_activations"]["dynamic"] is True


@pytest.mark.parametrize("kind", ["auto", "f32", "bf16"])
def test_safetensors_are_dequantized(kind: str, tmp_path: Path) -> None:
    affine_decoder(tmp_path / "model")
    result = export(tmp_path / "model", tmp_path / "out", format="safetensors", type=kind)
    assert result.exact is (kind == "f32" or result.largest_difference == 0)
    assert result.largest_difference < {"auto": 2**-11, "f32": 1e-30, "bf16": 2**-8}[kind]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not {"quantization", "quantization_config"} & set(config)
    assert config["torch_dtype"] == {"auto": "float16", "f32": "float32", "bf16": "bfloat16"}[kind]
    expected = logits(tmp_path / "model", IDS)
    most = {"auto": 5e-3, "f32": 1e-5, "bf16": 3e-2}[kind]
    assert np.abs(logits(tmp_path / "out", IDS) - expected).max() < most * np.abs(expected).max()


def test_adapters_are_merged_and_their_layers_rounded(tmp_path: Path) -> None:
    source = random_decoder(tmp_path / "model", "llama_tied")
    adapter = random_adapter(tmp_path / "adapter", source)
    export(source, tmp_path / "dense", format="safetensors", adapter_path=str(adapter))
    expected = logits(source, IDS, adapter)
    assert np.abs(expected - logits(source, IDS)).max() > 0.05 * np.abs(expected).max()
    assert np.abs(logits(tmp_path / "dense", IDS) - expected).max() < 1e-5 * np.abs(expected).max()
    affine_decoder(tmp_path / "packed")
    adapter = random_adapter(tmp_path / "other", tmp_path / "model")
    result = export(
        tmp_path / "packed", tmp_path / "awq", format="awq", adapter_path=str(adapter), group_size=32
    )
    assert result.types["int4"] == 14
    assert any("4 layers were rounded to nearest" in note for note in result.notes)


def test_models_in_memory(tmp_path: Path) -> None:
    affine_decoder(tmp_path / "model")
    model, tokenizer = eat.load(tmp_path / "model", dtype="auto")
    result = eat.export(model, tokenizer=tokenizer, format="awq", output=tmp_path / "out")
    assert result.exact is True


@pytest.mark.parametrize(("of", "kind"), [("q4_0", "awq"), ("q4_0", "gptq"), ("q8_0", "gptq")])
def test_symmetric_types_of_gguf_files_are_kept_exactly(of: str, kind: Any, tmp_path: Path) -> None:
    eat.export(format="gguf", type=of, output=tmp_path / "model.gguf", verify="off")
    result = export(tmp_path / "model.gguf", tmp_path / "out", format=kind, requantize=False)
    # Embeddings of 8 bits become float16.
    assert result.exact is (of == "q4_0")
    assert result.largest_difference < 2**-11
    assert result.types[f"int{of[1]}"] == 28
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    model, tokenizer = eat.load(tmp_path / "out")
    assert model.num_parameters == eat.load(tmp_path / "model.gguf")[0].num_parameters
    assert tokenizer.decode(tokenizer.encode("ROMEO:")) == "ROMEO:"


def test_heads_beside_tied_embeddings_are_told(tmp_path: Path) -> None:
    source = random_decoder(tmp_path / "model")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    for kind in ("awq", "safetensors"):
        export(source, tmp_path / kind, format=kind)
        assert json.loads((tmp_path / kind / "config.json").read_text())["tie_word_embeddings"] is False
        assert "lm_head.weight" in load_file(tmp_path / kind / "model.safetensors")
