"""Files of the LiteRT export, run by its interpreter, beside the engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from safetensors.numpy import load_file, save_file

import efficientai_toolkit as eat
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError
from efficientai_toolkit.exports import blocks
from efficientai_toolkit.exports.comparison import sample_ids
from efficientai_toolkit.exports.tflite import Session
from efficientai_toolkit.exports.tflite.decoder import Decoder
from efficientai_toolkit.exports.tflite.rounding import round_rows
from support.decoders import FAMILIES, random_adapter, random_decoder

IDS = np.random.default_rng(3).integers(1, 2048, size=(1, 21))


def export(source: Path | None, output: Path, **settings: Any) -> Any:
    given = {"format": "tflite", "verify": "off", "context_length": 32, **settings}
    return eat.export(source, output=output, **given)


def distance(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def error(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def read(folder: Path) -> Any:
    """The objects of the schema that a file holds."""
    return schema.ModelT.InitFromPackedBuf((folder / "model.tflite").read_bytes())


def codes_of(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Codes, scales of their columns and bits of the matrices in a file."""
    model = read(folder)
    bits = {schema.TensorType.INT8: 8, schema.TensorType.INT4: 4}
    found = {}
    for tensor in model.subgraphs[0].tensors:
        if tensor.type in bits:
            packed = model.buffers[tensor.buffer].data
            codes = packed.view(np.int8)
            if bits[tensor.type] == 4:
                codes = blocks.unpack(packed[None], 4)[0].astype(np.int8)
                codes = np.where(codes > 7, codes - 16, codes).astype(np.int8)
            details = tensor.quantization
            assert details.quantizedDimension == 0
            if details.detailsType == schema.QuantizationDetails.BlockwiseQuantization:
                scales = model.subgraphs[0].tensors[details.details.scales]
                half = model.buffers[scales.buffer].data.view(np.float16).astype(np.float32)
                factors = np.repeat(half.reshape(scales.shape), details.details.blockSize, axis=1)
            else:
                assert not np.any(details.zeroPoint)
                factors = details.scale[:, None]
            name = tensor.name.decode()
            found[name] = (codes.reshape(tensor.shape), factors, bits[tensor.type])
    return found


def with_codes(source: Path, folder: Path, target: Path) -> Path:
    """The model whose weights are what the codes in ``folder`` stand for."""
    coded = codes_of(folder)
    weights = {
        name: coded[name][0] * coded[name][1] if name in coded else value
        for name, value in load_file(source / "model.safetensors").items()
    }
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_decoder(tmp_path_factory.mktemp("models") / "llama", "llama_tied")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_engines(family: str, tmp_path: Path) -> None:
    model = random_decoder(tmp_path / "model", family)
    output = tmp_path / "tflite"
    [note] = export(model, output, type="f32").notes
    assert note.startswith("texts have at most 32 tokens, not 128")
    expected = eat.load(model)[0](IDS)
    session = Session(output)
    assert (session.context_length, session.vocab_size) == (32, 2048)
    assert distance(session.logits(IDS), expected) < 1e-4
    # What fills texts up changes nothing.
    for length in (1, 5):
        assert distance(session.logits(IDS[:, :length]), expected[:, :length]) < 1e-4


def places(data: bytes) -> list[int]:
    """Where the numbers of a file begin."""
    model = schema.Model.GetRootAs(data)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    begin = np.frombuffer(data, np.uint8).ctypes.data
    return [
        buffer.DataAsNumpy().ctypes.data - begin for buffer in buffers if buffer and not buffer.DataIsNone()
    ]


def test_other_programs_find_inputs_and_outputs(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "tflite", type="f32")
    interpreter = Interpreter(model_path=str(tmp_path / "tflite" / "model.tflite"))
    signatures = {"serving_default": {"inputs": ["input_ids"], "outputs": ["logits"]}}
    assert interpreter.get_signature_list() == signatures
    [given], [found] = interpreter.get_input_details(), interpreter.get_output_details()
    assert (given["shape"].tolist(), given["dtype"]) == ([1, 32], np.int32)
    assert (found["shape"].tolist(), found["dtype"]) == ([1, 32, 2048], np.float32)
    data = (tmp_path / "tflite" / "model.tflite").read_bytes()
    assert data[4:8] == b"TFL3"
    # Weights can be mapped.
    assert len(places(data)) > 20
    assert not any(place % 16 for place in places(data))


def test_float16_is_close(source: Path, tmp_path: Path) -> None:
    result = export(source, tmp_path / "tflite", type="f16")
    assert result.size_after < 0.6 * result.size_before + 60_000
    assert distance(Session(tmp_path / "tflite").logits(IDS), eat.load(source)[0](IDS)) < 1e-2


@pytest.mark.parametrize(("kind", "limit"), [("f32", 1e-3), ("f16", 1e-3), ("int8", 1e-2), ("int4", 6e-2)])
def test_a_trained_model_stays_what_it_is(kind: str, limit: float, tmp_path: Path) -> None:
    result = export(None, tmp_path / "tflite", type=kind, verify="on", context_length=48)
    assert result.compared == "logits"
    assert result.largest_difference < limit
    model, tokenizer = eat.load(dtype="float32")
    ids = sample_ids(tokenizer, 48)
    expected = model(ids)
    found = Session(tmp_path / "tflite").logits(ids)
    assert error(found, expected) < limit
    assert result.largest_difference == pytest.approx(distance(found, expected), rel=0.1)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("family", ["llama_tied", "llama_biases", "phi3"])
def test_files_compute_with_the_codes_that_they_hold(kind: str, family: str, tmp_path: Path) -> None:
    model = random_decoder(tmp_path / "model", family)
    for level, limit in ((1, 1e-4), (0, 1e-4), (4, 0.04)):
        output = tmp_path / f"tflite-{level}"
        result = export(model, output, type=kind, accuracy_level=level)
        tables = 1 if family == "llama_tied" else 2
        assert result.types["int8"] == (tables if kind == "int4" else len(codes_of(output)))
        rounded = with_codes(model, output, tmp_path / f"rounded-{level}")
        assert distance(Session(output).logits(IDS), eat.load(rounded)[0](IDS)) < limit
    assert {bits for _, _, bits in codes_of(output).values()} == {8, int(kind[3:])}


@pytest.mark.parametrize("size", [32, 64])
def test_groups_have_a_scale_each(size: int, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "tflite"
    export(source, output, type="int4", group_size=size)
    rounded = eat.load(with_codes(source, output, tmp_path / "rounded"))[0](IDS)
    found = Session(output).logits(IDS)
    assert distance(found, rounded) < 0.04
    export(source, tmp_path / "rows", type="int4")
    expected = eat.load(source)[0](IDS)
    if size == 32:
        assert error(found, expected) < error(Session(tmp_path / "rows").logits(IDS), expected)
    for name, value in load_file(source / "model.safetensors").items():
        if ".layers." in name and value.ndim == 2:
            codes, scales, bits = codes_of(output)[name]
            assert bits == 4
            assert len(np.unique(scales[0])) == value.shape[1] // size
            assert error(codes * scales, value) < 0.13


def test_codes_of_8_bits_are_those_of_the_quantizer_of_litert(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "f32", type="f32")
    export(source, tmp_path / "int8", type="int8")
    peer = quantizer.Quantizer(str(tmp_path / "f32" / "model.tflite"), recipe.dynamic_wi8_afp32())
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "model.tflite").write_bytes(peer.quantize().quantized_model)
    theirs, ours = codes_of(tmp_path / "peer"), codes_of(tmp_path / "int8")
    assert set(theirs) == set(ours)
    for name, (codes, scales, _) in theirs.items():
        np.testing.assert_array_max_ulp(ours[name][1], scales.astype(np.float32), maxulp=1)
        assert np.abs(ours[name][0].astype(int) - codes).max() <= 1
        assert (ours[name][0] != codes).mean() < 1e-4


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_are_rounded_with_a_scale_each(bits: int) -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(300, 96)) * rng.uniform(1e-3, 10, size=(300, 1))).astype(np.float32)
    matrix[7] = 0
    found = round_rows(matrix, bits)
    top = 2 ** (bits - 1) - 1
    codes = found.codes.view(np.int8).reshape(300, -1)
    if bits == 4:
        unsigned = blocks.unpack(found.codes.reshape(300, -1), 4).astype(np.int8)
        codes = np.where(unsigned > 7, unsigned - 16, unsigned)
    assert (codes.min(), codes.max()) == (-top, top)
    assert not codes[7].any()
    errors = np.square(codes * found.scales[:, None] - matrix).sum(1)
    plain = np.abs(matrix).max(1, keepdims=True) / top + 1e-30
    nearest = np.square(np.rint(matrix / plain) * plain - matrix).sum(1)
    assert (errors <= nearest * 1.0001).all()
    if bits == 4:
        # Cutting off large weights helps.
        assert errors.sum() < 0.9 * nearest.sum()


def test_tied_tables_are_stored_once(source: Path, tmp_path: Path) -> None:
    numbers = sum(value.size for value in load_file(source / "model.safetensors").values())
    table = 2048 * 64
    # Masks, rotations, the description of operators, and scales and zero points of rows.
    rest = 4 * 32 * (32 + 2 * 32) + 40_000 + 12 * (2048 + 2 * (256 + 64 + 384))
    sizes = {"f32": 4 * numbers, "f16": 2 * numbers, "int8": numbers, "int4": (numbers + table) / 2}
    for kind, size in sizes.items():
        export(source, tmp_path / kind, type=kind)
        assert size <= (tmp_path / kind / "model.tflite").stat().st_size < size + rest


def test_quantized_models_are_rounded_again(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    eat.quantize.quantize(source, bits=4, group_size=32, technique="rtn", output=folder)
    result = export(folder, tmp_path / "auto")
    assert result.notes[0] == "type int8, the closest to the model's own numbers"
    assert "15 quantized layers were rounded again" in result.notes[-1]
    expected = eat.load(folder, dtype="float32")[0](IDS)
    assert error(Session(tmp_path / "auto").logits(IDS), expected) < 0.05
    export(folder, tmp_path / "f32", type="f32")
    assert distance(Session(tmp_path / "f32").logits(IDS), expected) < 1e-4


def test_adapters_are_merged(source: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", source)
    expected = eat.load(source, adapter)[0](IDS)
    assert distance(eat.load(source)[0](IDS), expected) > 0.01
    export(source, tmp_path / "tflite", type="f32", adapter_path=adapter)
    assert distance(Session(tmp_path / "tflite").logits(IDS), expected) < 1e-4
    model, tokenizer = eat.load(source, adapter)
    export(model, tmp_path / "given", type="f32", tokenizer=tokenizer)  # type: ignore[arg-type]
    assert distance(Session(tmp_path / "given").logits(IDS), expected) < 1e-4


@pytest.mark.alone
def test_weights_are_in_memory_once(tmp_path: Path) -> None:
    """Memory grows by the file, not by copies of it."""
    settings = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8}
    model = random_decoder(tmp_path / "model", "llama_tied", **settings)
    program = """
import resource, sys
import ai_edge_litert.schema_py_generated
import efficientai_toolkit as eat
model, tokenizer = eat.load(sys.argv[1], dtype="float32")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
eat.export(model, tokenizer=tokenizer, format="tflite", type="f32", output=sys.argv[2], verify="off")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    words = [sys.executable, "-c", program, str(model), str(tmp_path / "tflite")]
    grown = 1024 * int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    size = (tmp_path / "tflite" / "model.tflite").stat().st_size
    assert size > 50e6
    assert grown < 1.5 * size


def test_the_command_writes_a_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cpu-model-compression:export", "--model-path", str(source), "--format", "tflite"]
    words += ["--type", "int8", "--context-length", "40", "--output", str(tmp_path / "tflite"), "--quiet"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "largest difference of logits" in printed
    assert "at most 40 tokens, not 128" in printed
    names = {path.name for path in (tmp_path / "tflite").iterdir()}
    assert names == {"model.tflite", "config.json", "tokenizer.json", "tokenizer_config.json"}


def refusals(folder: Path) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """What cannot be exported, and how the error begins to explain it."""
    plain = random_decoder(folder / "plain", "llama")
    yield plain, {"type": "qdq"}, "`type` must be one of auto, f32, f16, int8, int4"
    yield plain, {"accuracy_level": 2}, r"`accuracy_level` 2 is none of LiteRT's"
    groups = {"type": "int4", "group_size": 32, "accuracy_level": 1}
    yield plain, groups, "`accuracy_level` 1 does not go with `group_size`"
    yield plain, {"calibration": str(folder)}, "`calibration` has no effect on tflite"
    yield plain, {"context_length": 129}, "`context_length` 129 is more than the 128 tokens"
    yield plain, {"output": folder / "here" / "model.tflite"}, r"the output is a folder, with model\.tflite"
    yield plain, {"adapter_path": plain, "merge_adapter": False}, "a graph holds whole weights"
    long = random_decoder(folder / "long", "llama", max_position_embeddings=32768)
    yield long, {"context_length": 32768, "type": "int4"}, r"at most 2 GiB, and 4\.\d+ GB of weights and"
    mixture: dict[str, Any] = {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1}
    yield random_decoder(folder / "moe", "llama", **mixture), {}, "LiteRT export"
    large = random_decoder(folder / "large", "llama")
    tensors = load_file(large / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = 1e5
    save_file(tensors, large / "model.safetensors", metadata={"format": "pt"})
    yield large, {"type": "f16"}, "lm_head are too large for float16: choose f32"


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for model, settings, message in refusals(tmp_path):
        here = tmp_path / "here"
        here.mkdir()
        with pytest.raises(ConfigError, match=message):
            eat.export(model, **{"format": "tflite", "output": here / "tflite", **settings})
        assert list(here.iterdir()) == []
        here.rmdir()


def test_a_failure_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        message = "no space"
        raise OSError(message)

    monkeypatch.setattr(Decoder, "_feed_forward", fail)
    with pytest.raises(OSError, match="no space"):
        export(source, tmp_path / "tflite", type="f32")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_predicts_nothing(tmp_path: Path) -> None:
    model = random_decoder(tmp_path / "model", "llama")
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"][:] = 0
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert export(model, tmp_path / "tflite", type="int8", verify="on").exact


def test_damaged_files_are_named(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "tflite", type="int8")
    path = tmp_path / "tflite" / "model.tflite"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[100:140] = bytes(range(40))
    for damaged in (b"", b"no model", whole[:1000], whole[:-1], bytes(5000), bytes(changed)):
        path.write_bytes(damaged)
        with pytest.raises(ModelLoadingError, match=r"model\.tflite: LiteRT cannot load it"):
            Session(tmp_path / "tflite")
    path.unlink()
    with pytest.raises(ModelLoadingError, match=r"model\.tflite"):
        Session(tmp_path / "tflite")


def test_the_bundled_model_is_the_default(tmp_path: Path) -> None:
    export(None, tmp_path / "tflite", type="int8")
    assert Session(tmp_path / "tflite").tokenizer.encode("a b") == eat.load(MODEL)[1].encode("a b")
