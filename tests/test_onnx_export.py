"""Graphs of the ONNX export, run by onnxruntime, beside the engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.numpy_helper import to_array
from safetensors.numpy import load_file, save_file

import efficientai_toolkit as eat
from efficientai_toolkit import _core
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, DeploymentError, ModelLoadingError
from efficientai_toolkit.exports import blocks
from efficientai_toolkit.exports.onnx import Session
from efficientai_toolkit.exports.onnx.decoder import Decoder
from efficientai_toolkit.exports.onnx.runner import Runner
from support.decoders import FAMILIES, random_adapter, random_decoder

IDS = np.random.default_rng(3).integers(1, 2048, size=(1, 21))
CPU: dict[str, Any] = {"providers": ["CPUExecutionProvider"], "threads": 1, "entries": {}}


def export(source: Path, output: Path, **settings: Any) -> Any:
    """Export at the most exact level, without verification."""
    given = {"format": "onnx", "verify": "off", "accuracy_level": 0, **settings}
    return eat.export(source, output=output, **given)


def distance(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Tensors of a graph, those of the file beside it included."""
    model = onnx.load(folder / "model.onnx")
    return {tensor.name: to_array(tensor) for tensor in model.graph.initializer}


def operators(folder: Path) -> set[tuple[str, str]]:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    return {(node.domain, node.op_type) for node in model.graph.node}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_decoder(tmp_path_factory.mktemp("models") / "llama", "llama_tied")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_engines(family: str, tmp_path: Path) -> None:
    model = random_decoder(tmp_path / "model", family)
    output = tmp_path / "onnx"
    assert export(model, output, type="f32").notes == []
    onnx.checker.check_model(output / "model.onnx", full_check=False)
    found = onnx.load(output / "model.onnx", load_external_data=False)
    assert 10 <= found.ir_version <= 11
    assert 21 <= next(each.version for each in found.opset_import if not each.domain) <= 23
    expected = eat.load(model)[0](IDS)
    session = Session(output)
    assert distance(session.logits(IDS), expected) < 1e-4
    for sizes in ([20, 1], [9, 1, 10, 1], [1] * 21):
        assert distance(session.logits_in_pieces(IDS[0], sizes), expected) < 1e-4


def test_rows_of_different_lengths(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "onnx", type="f32")
    model, _ = eat.load(source)
    lengths = [7, 3, 5]
    rows = np.random.default_rng(1).integers(1, 2048, size=(3, 8))
    mask = (np.arange(7) < np.array(lengths)[:, None]).astype(np.int64)
    found = Session(tmp_path / "onnx").logits(rows[:, :7], mask)
    for row, length in enumerate(lengths):
        assert distance(found[row, :length], model(rows[row : row + 1, :length])[0]) < 1e-4
    # One more token of each row, behind its own.
    runner = Runner(tmp_path / "onnx" / "model.onnx", **CPU)
    cache = runner.new_cache(3, 8)
    runner.run(rows[:, :7], cache, mask=mask)
    longer = np.concatenate([mask, np.ones((3, 1), np.int64)], 1)
    found = runner.run(rows[:, 7:], cache, mask=longer)
    for row, length in enumerate(lengths):
        whole = np.append(rows[row, :length], rows[row, 7])[None]
        assert distance(found[row, 0], model(whole)[0, -1]) < 1e-4


def test_float16_is_close(source: Path, tmp_path: Path) -> None:
    result = export(source, tmp_path / "onnx", type="f16")
    assert result.size_after < 0.7 * result.size_before
    assert distance(Session(tmp_path / "onnx").logits(IDS), eat.load(source)[0](IDS)) < 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_quantized_weights_keep_codes_and_scales(bits: int, dtype: str, source: Path, tmp_path: Path) -> None:
    _core.models.convert(str(source), str(tmp_path / "typed"), dtype)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "typed" / name).write_bytes((source / name).read_bytes())
    folder = tmp_path / "quantized"
    eat.quantize.quantize(tmp_path / "typed", bits=bits, group_size=32, technique="rtn", output=folder)
    output = tmp_path / "onnx"
    result = export(folder, output, type="auto")
    kind = "int4" if bits <= 4 else "int8"
    assert result.notes == [f"type {kind}, the closest to the model's own numbers"]
    model, _ = eat.load(folder, dtype="float32")
    stored = tensors(output)
    shifted = 0
    found_bits = set()
    for path, (_, own, _) in model.quantized_layers.items():
        found_bits.add(own)
        container = blocks.CONTAINERS[own]
        codes = blocks.unpack(model.parameter(f"{path}.weight").view(np.uint8), own)
        scales, biases = model.parameter(f"{path}.scales"), model.parameter(f"{path}.biases")
        found = blocks.unpack(stored[f"{path}.codes"].reshape(len(codes), -1), container)
        np.testing.assert_array_equal(found, codes)
        np.testing.assert_array_equal(stored[f"{path}.scales"], scales)
        if f"{path}.offsets" in stored:
            shifted += 1
            exact = biases + 2.0 ** (container - 1) * scales.astype(np.float64)
            np.testing.assert_array_max_ulp(stored[f"{path}.offsets"].T, exact.astype(np.float32), maxulp=1)
        else:
            points = blocks.unpack(stored[f"{path}.zero_points"], container)[:, : scales.shape[1]]
            bias = -(points * scales.astype(np.float64)).astype(np.float32)
            np.testing.assert_array_max_ulp(bias, biases, maxulp=1)
    # Embeddings have 8.
    assert found_bits == {bits, 8}
    # Scales of bfloat16 are no whole parts of biases.
    assert (shifted > 0) == (dtype == "bfloat16")
    expected = model(IDS)
    assert distance(Session(output).logits(IDS), expected) < 1e-3
    assert distance(Session(output).logits_in_pieces(IDS[0], [9, 1, 11]), expected) < 1e-3


@pytest.mark.parametrize(("kind", "bits"), [("int4", 4), ("int8", 8)])
@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_dense_weights_are_rounded_as_the_engine_rounds(
    family: str, kind: str, bits: int, tmp_path: Path
) -> None:
    model = random_decoder(tmp_path / "model", family)
    export(model, tmp_path / "onnx", type=kind, group_size=32)
    expected = eat.load(model, bits=bits, group_size=32)[0](IDS)
    assert distance(Session(tmp_path / "onnx").logits(IDS), expected) < 1e-3
    assert ("com.microsoft", "MatMulNBits") in operators(tmp_path / "onnx")


def test_the_accuracy_level_is_that_of_every_product(source: Path, tmp_path: Path) -> None:
    eat.export(source, format="onnx", type="int4", output=tmp_path / "onnx", verify="off")
    found = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False)
    levels = {
        attribute.i
        for node in found.graph.node
        for attribute in node.attribute
        if attribute.name == "accuracy_level"
    }
    assert levels == {4}


def test_tied_tables_are_stored_once(source: Path, tmp_path: Path) -> None:
    sizes = {}
    for kind in ("f32", "int4", "int8", "qdq"):
        export(source, tmp_path / kind, type=kind, group_size=32)
        sizes[kind] = (tmp_path / kind / "model.onnx.data").stat().st_size
        assert (tmp_path / kind / "model.onnx").stat().st_size < 100_000
    numbers = sum(value.size for value in load_file(source / "model.safetensors").values())
    tables = 2 * 128 * 32 // 2 * 4
    # A scale, and a zero point, for each 32 columns.
    expected = {"f32": 4 * numbers, "int4": numbers * (4.5 + 1 + 0.125) / 8, "int8": numbers * 9.25 / 8}
    for kind, size in expected.items():
        assert size + tables <= sizes[kind] < 1.06 * size + tables + 40_000
    assert sizes["qdq"] < 1.1 * numbers + tables + 80_000


def test_adapters_are_merged(source: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", source)
    expected = eat.load(source, adapter)[0](IDS)
    assert distance(eat.load(source)[0](IDS), expected) > 0.01
    export(source, tmp_path / "onnx", type="f32", adapter_path=adapter)
    assert distance(Session(tmp_path / "onnx").logits(IDS), expected) < 1e-4
    model, tokenizer = eat.load(source, adapter)
    eat.export(model, tokenizer=tokenizer, format="onnx", type="f32", output=tmp_path / "given", verify="off")
    assert distance(Session(tmp_path / "given").logits(IDS), expected) < 1e-4


@pytest.mark.parametrize("kind", ["f32", "q4_1", "q6_k"])
def test_files_of_llama_cpp_are_models_too(kind: str, tmp_path: Path) -> None:
    model = random_decoder(tmp_path / "model", "llama_tied", hidden_size=256, intermediate_size=256)
    eat.export(model, type=kind, output=tmp_path / "model.gguf", verify="off")
    loaded, tokenizer = eat.load(tmp_path / "model.gguf", dtype="float32")
    for result in ("f32", "auto"):
        export(tmp_path / "model.gguf", tmp_path / result, type=result)
        session = Session(tmp_path / result)
        # Numbers of a K-quant are not rounded to those of another dtype.
        assert distance(session.logits(IDS), loaded(IDS)) < 1e-4
        assert session.tokenizer.encode("List three") == tokenizer.encode("List three")


def test_numbers_that_float16_has_not_are_refused(tmp_path: Path) -> None:
    model = random_decoder(tmp_path / "model", "llama")
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = 1e5
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lm_head are too large for float16: choose f32"):
        export(model, tmp_path / "onnx", type="f16")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_activations_that_float16_has_not_are_found(tmp_path: Path) -> None:
    model = random_decoder(tmp_path / "model", "llama")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.input_layernorm.weight"][:] = 6e4
    tensors["model.layers.0.self_attn.v_proj.weight"][:] = 10
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DeploymentError, match=r"logits that are no numbers, .* choose f32"):
        export(model, tmp_path / "onnx", type="f16", verify="on")


@pytest.mark.alone
def test_weights_are_written_one_at_a_time(tmp_path: Path) -> None:
    """Memory grows by a few tensors, not by the model."""
    settings = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8}
    model = random_decoder(tmp_path / "model", "llama_tied", **settings)
    program = """
import resource, sys
import onnx
import efficientai_toolkit as eat
model, tokenizer = eat.load(sys.argv[1], dtype="float32")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
eat.export(model, tokenizer=tokenizer, format="onnx", type="f32", output=sys.argv[2], verify="off")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    words = [sys.executable, "-c", program, str(model), str(tmp_path / "onnx")]
    grown = 1024 * int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    size = (model / "model.safetensors").stat().st_size
    assert size > 50e6
    assert grown < 0.4 * size


def test_the_command_writes_a_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["lora-finetuning-mlx:export", "--model-path", str(source), "--format", "onnx", "--type", "int8"]
    words += ["--group-size", "32", "--accuracy-level", "0", "--output", str(tmp_path / "onnx"), "--quiet"]
    assert main(words) == 0
    assert "largest difference of logits" in capsys.readouterr().out
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err


def test_qdq_is_weights_in_standard_operators(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "onnx", type="qdq")
    stored = tensors(tmp_path / "onnx")
    for name, value in load_file(source / "model.safetensors").items():
        path = name.removesuffix(".weight")
        if value.ndim > 1:
            codes, scales = stored[f"{path}.codes"].T, stored[f"{path}.scales"][:, None]
            assert codes.dtype == np.int8
            assert np.abs(codes * scales - value).max() <= 0.501 * scales.max()
    contrib = {kind for domain, kind in operators(tmp_path / "onnx") if domain}
    assert contrib == {"GroupQueryAttention", "SkipSimplifiedLayerNormalization"}
    assert distance(Session(tmp_path / "onnx").logits(IDS), eat.load(source)[0](IDS)) < 0.1
    # onnxruntime makes products of its own of them.
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"), options)
    found = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    kinds = {node.op_type for node in found.graph.node}
    assert "MatMul" not in kinds
    assert "MatMulNBits" in kinds


def test_the_verification_measures_the_difference(source: Path, tmp_path: Path) -> None:
    for kind, low, high in (("f32", 0, 1e-4), ("f16", 1e-6, 1e-2), ("int8", 1e-4, 0.2), ("int4", 1e-2, 2)):
        result = eat.export(source, format="onnx", type=kind, output=tmp_path / kind, group_size=32)
        assert result.compared == "logits"
        assert result.largest_difference is not None
        assert low <= result.largest_difference <= high


def test_sequences_end_where_the_rotation_changes(tmp_path: Path) -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    model = random_decoder(tmp_path / "llama", "llama", rope_scaling=scaling, max_position_embeddings=32)
    assert export(model, tmp_path / "dynamic", type="f32").notes == []
    factors = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
    scaling = {"rope_type": "longrope", "original_max_position_embeddings": 32, **factors}
    model = random_decoder(
        tmp_path / "phi3", "phi3", rope_scaling=scaling, partial_rotary_factor=1.0,
        original_max_position_embeddings=32,
    )  # fmt: skip
    [note] = export(model, tmp_path / "long", type="f32").notes
    assert "at most 32 tokens, not 128" in note
    expected = eat.load(model)[0](IDS)
    session = Session(tmp_path / "long")
    assert distance(session.logits(IDS), expected) < 1e-4
    with pytest.raises(ConfigError, match="33 tokens are more than the 32"):
        session.logits(np.ones((1, 33), np.int64))


def refusals(folder: Path) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """What cannot be exported, and how the error begins to explain it."""
    plain = random_decoder(folder / "plain", "llama")
    yield plain, {"type": "q4_0"}, "`type` must be one of auto, f32, f16, int4, int8, qdq"
    yield plain, {"type": "int4", "group_size": 128}, "rows of 64 weights of .* choose group_size 64"
    yield plain, {"group_size": 16}, "`group_size` must be one of 32, 64, 128"
    yield plain, {"accuracy_level": 5}, "`accuracy_level` must be one of 0, 1, 2, 3, 4"
    yield plain, {"calibration": str(folder)}, "`calibration` has no effect"
    yield random_decoder(folder / "odd", "llama", head_dim=24), {}, "24 elements are rotated"
    mixture: dict[str, Any] = {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1}
    yield random_decoder(folder / "moe", "llama", **mixture), {}, "not this mixtral"
    silent = random_decoder(folder / "silent", "llama")
    config = json.loads((silent / "config.json").read_text())
    del config["max_position_embeddings"]
    (silent / "config.json").write_text(json.dumps(config))
    yield silent, {}, "max_position_embeddings"
    four = folder / "four"
    eat.quantize.quantize(plain, bits=4, group_size=32, technique="rtn", output=four)
    yield four, {"type": "int8"}, "have 4 bits already, .* choose int4"
    powers = folder / "mxfp4"
    eat.quantize.quantize(
        plain, layers={"*.mlp.*": "mxfp4"}, bits=4, group_size=32, technique="rtn", output=powers
    )
    yield powers, {"type": "int4"}, "is in mxfp4, .* choose f32, f16 or qdq"
    narrow = random_decoder(folder / "narrow", "llama", hidden_size=48)
    yield narrow, {"type": "int4"}, "rows of 48 weights .* choose f32, f16 or qdq"


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for model, settings, message in refusals(tmp_path):
        here = tmp_path / "here"
        here.mkdir()
        with pytest.raises(ConfigError, match=message):
            eat.export(model, **{"format": "onnx", "output": here / "onnx", **settings})
        assert list(here.iterdir()) == []
        here.rmdir()


def test_a_failure_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        message = "no space"
        raise OSError(message)

    monkeypatch.setattr(Decoder, "_logits", fail)
    with pytest.raises(OSError, match="no space"):
        export(source, tmp_path / "onnx", type="f32")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_no_export_are_named(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "onnx", type="f32")
    with pytest.raises(ModelLoadingError, match=r"genai_config\.json"):
        Session(source)
    for name, damage in (("genai_config.json", b"{}"), ("model.onnx", b"\x08"), ("model.onnx.data", b"")):
        kept = (tmp_path / "onnx" / name).read_bytes()
        (tmp_path / "onnx" / name).write_bytes(damage)
        with pytest.raises(ModelLoadingError, match=r"model\.onnx|genai_config\.json"):
            Session(tmp_path / "onnx")
        (tmp_path / "onnx" / name).write_bytes(kept)
    assert Session(tmp_path / "onnx").vocab_size == 2048
