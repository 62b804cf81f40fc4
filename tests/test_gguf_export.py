"""GGUF files that the engine writes, as the package ``gguf`` reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.adapters import fuse
from efficientai_toolkit.exports import FORMATS
from support.engine import stored
from support.gguf_files import permute
from support.gguf_models import MODELS as RANDOM
from support.gguf_models import File, change, create, expected, quantize
from support.tokenizers import byte_level, sentencepiece

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.figures import Check

LEGACY = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
K_QUANTS = {"q4_k": 0.12, "q5_k": 0.06, "q6_k": 0.03}
"""Largest error of a weight relative to the largest weight, as three standard deviations are spread here."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create(tmp_path_factory.mktemp("models") / "llama", "llama", num_hidden_layers=1)


@pytest.mark.parametrize("family", RANDOM)
def test_every_family_is_written_as_llama_cpp_names_it(family: str, tmp_path: Path) -> None:
    model = create(tmp_path / "model", family)
    result = eat.export(model, type="f32", output=tmp_path / "model.gguf")
    assert (result.exact, result.largest_difference, result.compared) == (True, 0.0, "weights")
    file = File(tmp_path / "model.gguf")
    arch = file.architecture
    assert arch == {"mistral": "llama"}.get(family, family.partition("-")[0])
    want = expected(model, arch)
    factors = {name for name in file.tensors if name.startswith("rope_")}
    assert file.tensors.keys() - factors == want.keys()
    assert bool(factors) == (family in {"llama-scaled", "phi3"})
    for name, value in want.items():
        np.testing.assert_array_equal(file.tensors[name], value, err_msg=name)
    config = json.loads((model / "config.json").read_text())
    for key, size in {
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.key_length": config["head_dim"],
        "context_length": config["max_position_embeddings"],
        "feed_forward_length": want["blk.0.ffn_down.weight"].shape[1],
    }.items():
        assert file.values[f"{arch}.{key}"] == size, key
    assert file.values[f"{arch}.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)


@pytest.mark.parametrize("kind", LEGACY)
def test_blocks_of_32_equal_those_of_the_package_bit_for_bit(kind: str, llama: Path, tmp_path: Path) -> None:
    eat.export(llama, type=kind, output=tmp_path / "model.gguf", verify="off")
    file = File(tmp_path / "model.gguf")
    want = expected(llama, "llama")
    compared = 0
    for name, value in want.items():
        if file.types[name] == kind.upper():
            blocks = gguf.quantize(value, gguf.GGMLQuantizationType[kind.upper()])
            np.testing.assert_array_equal(file.bytes[name], blocks, err_msg=name)
            compared += 1
    assert compared >= 8
    # llama.cpp gives the head more bits.
    assert file.types["output.weight"] == ("Q8_0" if kind == "q8_0" else "Q6_K")


@pytest.mark.parametrize("kind", ["f16", "bf16", *LEGACY, *K_QUANTS, "q4_k_m", "q5_k_m"])
def test_the_reported_difference_is_that_of_the_decoded_file(kind: str, llama: Path, tmp_path: Path) -> None:
    result = eat.export(llama, type=kind.upper(), output=tmp_path / "model.gguf")
    file = File(tmp_path / "model.gguf")
    differences = [
        np.abs(file.tensors[name].astype(np.float64) - value).max() / np.abs(value).max()
        for name, value in expected(llama, "llama").items()
    ]
    assert result.largest_difference == max(differences)
    assert result.exact is False
    assert result.type == kind


@pytest.mark.parametrize("kind", K_QUANTS)
def test_superblocks_are_close(kind: str, llama: Path, tmp_path: Path, figure: Check) -> None:
    eat.export(llama, type=kind, output=tmp_path / "model.gguf", verify="off")
    file = File(tmp_path / "model.gguf")
    worst = 0.0
    for name, value in expected(llama, "llama").items():
        if file.types[name] == kind.upper():
            worst = max(worst, float(np.abs(file.tensors[name] - value).max() / np.abs(value).max()))
    figure(f"largest error of {kind}", worst, K_QUANTS[kind])


@pytest.mark.parametrize(
    ("hidden", "kind", "types"),
    [
        (256, "q4_k_m", {"attn_q": "Q4_K", "attn_v": "Q6_K", "ffn_down": "Q6_K", "token_embd": "Q4_K"}),
        (192, "q4_k_m", {"attn_q": "Q5_0", "attn_v": "Q8_0", "ffn_down": "Q6_K", "token_embd": "Q5_0"}),
        (192, "q5_k", {"attn_q": "Q5_1", "attn_v": "Q5_1", "ffn_down": "Q5_K", "output": "Q8_0"}),
        (48, "q8_0", {"attn_q": "F16", "attn_norm": "F32", "ffn_down": "Q8_0", "output": "F16"}),
    ],
)
def test_rows_that_do_not_divide_fall_back_as_in_llama_cpp(
    hidden: int, kind: str, types: dict[str, str], tmp_path: Path
) -> None:
    model = create(tmp_path / "model", "llama", hidden_size=hidden, num_hidden_layers=1)
    eat.export(model, type=kind, output=tmp_path / "model.gguf")
    file = File(tmp_path / "model.gguf")
    for part, want in types.items():
        name = f"{part}.weight" if part in {"token_embd", "output"} else f"blk.0.{part}.weight"
        assert file.types[name] == want, name


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, 64), (3, 32), (5, 32)])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_codes_of_mlx_are_kept(bits: int, group_size: int, family: str, llama: Path, tmp_path: Path) -> None:
    source = llama if family == "llama" else create(tmp_path / "dense", family, num_hidden_layers=1)
    model = quantize(source, tmp_path / "model", bits=bits, group_size=group_size)
    result = eat.export(model, output=tmp_path / "model.gguf")
    assert (result.exact, result.notes) == (True, [])
    file = File(tmp_path / "model.gguf")
    kind = "Q5_1" if bits == 5 else "Q4_1"
    assert {file.types[name] for name in file.types if "norm" not in name} == {kind}
    arrays = stored(model)
    weight = mx.dequantize(
        *(arrays[f"lm_head.{part}"].astype(mx.float32 if part != "weight" else mx.uint32)
          for part in ("weight", "scales", "biases")),
        group_size,
        bits,
    )  # fmt: skip
    np.testing.assert_array_equal(file.tensors["output.weight"], np.array(weight))
    if bits == 4:
        eat.export(model, type="q4_1", output=tmp_path / "again.gguf", verify="off")
        assert (tmp_path / "again.gguf").stat().st_size == (tmp_path / "model.gguf").stat().st_size


def test_a_packed_model_goes_through_a_file_unchanged(llama: Path, tmp_path: Path) -> None:
    model = quantize(llama, tmp_path / "model", bits=4, group_size=32)
    eat.export(model, output=tmp_path / "model.gguf", verify="off")
    blocks = File(tmp_path / "model.gguf").bytes["output.weight"].reshape(-1, 20)
    arrays = stored(model)
    words = np.array(arrays["lm_head.weight"]).reshape(-1, 4)
    codes = (words[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(-1, 32)
    halves = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    np.testing.assert_array_equal(halves, codes)
    for place, part in ((0, "scales"), (2, "biases")):
        numbers = np.ascontiguousarray(blocks[:, place : place + 2]).view(np.float16)
        want = np.array(arrays[f"lm_head.{part}"].astype(mx.float32)).reshape(-1, 1)
        np.testing.assert_array_equal(numbers.astype(np.float32), want)
    ids = np.arange(24)[None]
    np.testing.assert_array_equal(
        eat.load(tmp_path / "model.gguf", dtype="float32")[0](ids), eat.load(model, dtype="float32")[0](ids)
    )
    # The file is a model too, and is written again as it is.
    assert eat.export(tmp_path / "model.gguf", output=tmp_path / "again.gguf").exact
    again, first = File(tmp_path / "again.gguf"), File(tmp_path / "model.gguf")
    assert again.types == first.types
    for name, data in first.bytes.items():
        np.testing.assert_array_equal(again.bytes[name], data, err_msg=name)


def test_mxfp4_is_kept(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in llama.glob("*.json"):
        shutil.copy(file, folder)
    arrays: dict[str, Any] = {}
    for name, value in stored(llama).items():
        parts = mx.quantize(value, 32, 4, mode="mxfp4") if value.ndim == 2 else (value,)
        path = name.removesuffix(".weight")
        arrays |= dict(zip((name, f"{path}.scales"), parts, strict=False))
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))
    result = eat.export(folder, output=tmp_path / "model.gguf")
    assert (result.exact, result.notes) == (True, [])
    assert result.types == {"F32": 3, "MXFP4": 9}
    weight = mx.dequantize(arrays["lm_head.weight"], arrays["lm_head.scales"], None, 32, 4, mode="mxfp4")
    decoded = File(tmp_path / "model.gguf").tensors["output.weight"]
    np.testing.assert_array_equal(decoded, np.array(weight.astype(mx.float32)))


def test_codes_are_kept_as_q8_0_where_zero_is_a_code(llama: Path, tmp_path: Path) -> None:
    model = quantize(llama, tmp_path / "model", bits=8, group_size=32)
    arrays = stored(model)
    arrays |= {
        name.replace(".scales", ".biases"): value * -128
        for name, value in arrays.items()
        if name.endswith(".scales")
    }
    mx.eval(arrays)
    mx.save_safetensors(str(model / "model.safetensors"), arrays, metadata={"format": "pt"})
    result = eat.export(model, type="q8_0", output=tmp_path / "model.gguf")
    assert (result.exact, result.notes) == (True, [])
    assert File(tmp_path / "model.gguf").types["output.weight"] == "Q8_0"


def test_layers_that_are_rounded_again_are_told(llama: Path, tmp_path: Path) -> None:
    model = quantize(llama, tmp_path / "model", bits=4, group_size=32)
    result = eat.export(model, type="q4_0", output=tmp_path / "model.gguf")
    assert result.exact is False
    assert result.notes == [
        "9 layers are quantized in a format that the file type does not hold: they were rounded again"
    ]
    eight = quantize(llama, tmp_path / "eight", bits=8, group_size=64)
    result = eat.export(eight, output=tmp_path / "eight.gguf")
    assert "rounded again" in result.notes[0]
    assert result.largest_difference is not None
    assert result.largest_difference < 0.01


def test_scales_beyond_half_precision_are_not_called_exact(llama: Path, tmp_path: Path) -> None:
    model = quantize(llama, tmp_path / "model", bits=4, group_size=32, dtype=mx.float32)
    result = eat.export(model, type="q4_1", output=tmp_path / "model.gguf")
    assert result.exact is False
    assert "rounded again" in result.notes[0]


TEXTS = ("hello A world", "def ef  de\n", "é 😀 </s> A", " A")


@pytest.mark.parametrize("kind", [byte_level, sentencepiece], ids=lambda kind: kind.__name__)
def test_a_tokenizer_reads_texts_as_before(kind: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    model = create(tmp_path / "model", "llama", vocab_size=384, num_hidden_layers=1)
    (model / "tokenizer.json").write_text(json.dumps(kind()))
    eat.export(model, type="q8_0", output=tmp_path / "model.gguf", verify="off")
    before, after = eat.load(model)[1], eat.load(tmp_path / "model.gguf")[1]
    for text in TEXTS:
        ids = before.encode(text)
        assert after.encode(text) == ids, text
        assert after.decode(ids) == before.decode(ids), text
    assert after.eos_token_ids == before.eos_token_ids
    values = File(tmp_path / "model.gguf").values
    assert values["tokenizer.ggml.model"] == ("gpt2" if kind is byte_level else "llama")


def test_tokenizer_template_licence_and_origin(llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "my-model"))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 65]}))
    (model / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: org/base-1B\nlanguage: [en, de]\ntags:\n- chat\n---\n# Hello\n"
    )
    eat.export(model, type="f16", output=tmp_path / "model.gguf")
    values = File(tmp_path / "model.gguf").values
    want = {
        "general.type": "model",
        "general.name": "my-model",
        "general.license": "apache-2.0",
        "general.base_model.count": 1,
        "general.base_model.0.name": "base-1B",
        "general.base_model.0.organization": "org",
        "general.languages": ["en", "de"],
        "general.tags": ["chat"],
        "general.file_type": 1,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": ["Ġ A"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.ggml.eot_token_id": 65,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": "{{ messages }}",
    }
    assert {key: values.get(key) for key in want} == want
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == 320
    assert (tokens[65], tokens[256], tokens[257], tokens[319]) == ("A", "ĠA", "<s>", "[PAD319]")
    assert (types[65], types[257], types[319]) == (1, 3, 5)
    assert "general.quantization_version" not in values
    eat.export(tmp_path / "model.gguf", type="q8_0", output=tmp_path / "again.gguf")
    again = File(tmp_path / "again.gguf").values
    kept = [key for key in want if key.startswith("general.") and key != "general.file_type"]
    assert {key: again.get(key) for key in kept} == {key: want[key] for key in kept}
    assert again["general.quantization_version"] == 2


def adapter_of(folder: Path, model: Path) -> Path:
    """An adapter of all linear layers."""
    folder.mkdir()
    rng = np.random.default_rng(2)
    arrays: dict[str, Any] = {}
    layers = [n for n, w in stored(model).items() if w.ndim == 2 and ".layers." in n and "norm" not in n]
    for name in layers:
        path, (outputs, inputs) = name.removesuffix(".weight"), stored(model)[name].shape
        arrays[f"{path}.lora_a"] = mx.array(rng.normal(size=(inputs, 4)) / inputs**0.5, mx.float32)
        arrays[f"{path}.lora_b"] = mx.array(rng.normal(size=(4, outputs)) / 10, mx.float32)
    mx.save_safetensors(str(folder / "adapters.safetensors"), arrays)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_parameters": {"rank": 4, "scale": 2.0}}))
    return folder


def test_an_adapter_is_merged(llama: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter", llama)
    result = eat.export(llama, adapter_path=adapter, type="f32", output=tmp_path / "model.gguf")
    assert result.exact
    fuse(llama, adapter, tmp_path / "fused")
    file = File(tmp_path / "model.gguf")
    for name, value in expected(tmp_path / "fused", "llama").items():
        np.testing.assert_array_equal(file.tensors[name], value, err_msg=name)
    model, tokenizer = eat.load(llama, adapter)
    eat.export(model, tokenizer=tokenizer, type="f32", output=tmp_path / "loaded.gguf")
    assert (tmp_path / "loaded.gguf").read_bytes() == (tmp_path / "model.gguf").read_bytes()


def test_an_adapter_is_written_alone(llama: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter", llama)
    output = tmp_path / "adapter.gguf"
    result = eat.export(llama, adapter_path=adapter, merge_adapter=False, output=output)
    assert result.exact
    file = File(output)
    assert file.values["general.type"] == "adapter"
    assert file.values["general.architecture"] == "llama"
    assert file.values["adapter.type"] == "lora"
    assert file.values["adapter.lora.alpha"] == 8.0
    arrays = mx.load(str(adapter / "adapters.safetensors"))
    assert len(file.tensors) == len(arrays)
    query = "model.layers.0.self_attn.q_proj"
    np.testing.assert_array_equal(
        file.tensors["blk.0.attn_q.weight.lora_a"], np.array(arrays[f"{query}.lora_a"]).T
    )
    np.testing.assert_array_equal(
        file.tensors["blk.0.attn_q.weight.lora_b"], permute(np.array(arrays[f"{query}.lora_b"]).T, 8)
    )
    np.testing.assert_array_equal(
        file.tensors["blk.0.ffn_down.weight.lora_b"],
        np.array(arrays["model.layers.0.mlp.down_proj.lora_b"]).T,
    )


def test_importance_lowers_the_error_that_counts(llama: Path, tmp_path: Path, figure: Check) -> None:
    """The inputs of the first projection are normed and scaled by the weights of the norm."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"A cat number {i} sat here."}) + "\n" for i in range(60)))
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    scale = mx.array(np.where(np.arange(256) % 8 == 0, 10.0, 0.1), mx.float32)
    change(model, "model.layers.0.input_layernorm.weight", scale)
    want = expected(model, "llama")["blk.0.attn_v.weight"]
    for kind in ("q4_k", "q5_k", "q4_0", "q4_1", "q5_0", "q5_1", "q6_k"):
        errors = []
        for calibration in (None, data):
            eat.export(
                model, type=kind, calibration=calibration, calibration_sequences=4, sequence_length=64,
                output=tmp_path / "model.gguf", overwrite=True, verify="off",
            )  # fmt: skip
            off = (File(tmp_path / "model.gguf").tensors["blk.0.attn_v.weight"] - want) * np.array(scale)
            errors.append(float(np.square(off).sum()))
        figure(f"weighted error of {kind} with importance, of that without", errors[1] / errors[0], 0.9)


def test_windows_that_llama_cpp_does_not_know_are_told(tmp_path: Path) -> None:
    model = create(tmp_path / "model", "mistral", sliding_window=16, num_hidden_layers=1)
    result = eat.export(model, type="f16", output=tmp_path / "model.gguf", verify="off")
    assert "no sliding windows of the architecture llama: texts of more than 16 tokens" in result.notes[0]
    (tmp_path / "gemma").mkdir()
    gemma = create(tmp_path / "gemma" / "model", "gemma2", num_hidden_layers=1)
    assert eat.export(gemma, type="f16", output=tmp_path / "gemma.gguf", verify="off").notes == []


def test_the_table_of_types_is_the_engines() -> None:
    """Every type of the table is one that the engine takes."""
    from efficientai_toolkit._engine.core import core

    defaults = json.loads(core.exports.defaults())
    assert defaults["type"] == FORMATS["gguf"].types[0]
