"""Core ML programs, run by an interpreter of MIL, beside the engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import efficientai_toolkit as eat
from efficientai_toolkit import _core
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, DeploymentError
from efficientai_toolkit.exports import blocks
from efficientai_toolkit.exports.coreml.library import import_coremltools
from efficientai_toolkit.exports.coreml.palettes import find_palettes
from support.decoders import FAMILIES, random_adapter, random_decoder

import_coremltools()

from support.mil import Interpreter, logits  # noqa: E402 -- without what coremltools prints

IDS = np.random.default_rng(3).integers(1, 2048, size=(1, 21))
PIECES = [9, 1, 11]


def export(source: Path, output: Path, **settings: Any) -> Any:
    return eat.export(source, output=output, **{"format": "coreml", "verify": "off", **settings})


def distance(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def quick_first(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Parameters of which some are tested always, all others with the slow tests."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_decoder(tmp_path_factory.mktemp("models") / "llama", "llama_tied")


@pytest.mark.parametrize("family", quick_first(FAMILIES, "llama_tied", "llama_biases", "qwen3", "gemma2"))
def test_logits_equal_the_engines(family: str, tmp_path: Path) -> None:
    model = random_decoder(tmp_path / "model", family)
    output = tmp_path / "model.mlpackage"
    assert export(model, output, type="f16").notes == []
    expected = eat.load(model)[0](IDS)
    for sizes in (None, PIECES):
        interpreter = Interpreter(output)
        assert set(interpreter.states) == {"keyCache", "valueCache"}
        assert distance(logits(interpreter, IDS, sizes), expected) < 1e-2


@pytest.mark.parametrize("target", quick_first(["iOS16", "iOS17"], "iOS16"))
@pytest.mark.parametrize("family", quick_first(["mistral", "phi3", "gemma2"], "mistral"))
def test_programs_without_a_state(family: str, target: str, tmp_path: Path) -> None:
    model = random_decoder(tmp_path / "model", family)
    output = tmp_path / "model.mlpackage"
    export(model, output, type="f16", minimum_deployment_target=target)
    interpreter = Interpreter(output)
    assert interpreter.states == {}
    assert interpreter.version == {"iOS16": 7, "iOS17": 8}[target]
    assert distance(logits(interpreter, IDS), eat.load(model)[0](IDS)) < 1e-2


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("kind", ["f16", "int8", "int4", "palette4"])
def test_weights_are_coded(kind: str, target: str, source: Path, tmp_path: Path) -> None:
    if (kind, target) == ("int4", "iOS16"):
        with pytest.raises(ConfigError, match=r"iOS 16 and macOS 13 do not know: choose palette4 or int8"):
            export(source, tmp_path / "model.mlpackage", type=kind, minimum_deployment_target=target)
        assert list(tmp_path.iterdir()) == []
        return
    output = tmp_path / "model.mlpackage"
    result = export(source, output, type=kind, minimum_deployment_target=target, verify="on")
    interpreter = Interpreter(output)
    stored = interpreter.weights()
    coded = {"iOS16": "constexpr_affine_dequantize", "iOS18": "constexpr_blockwise_shift_scale"}[target]
    expected_kind = {"f16": "const", "palette4": "constexpr_lut_to_dense"}.get(kind, coded)
    bounds = {"f16": 5e-4, "int8": 5e-3, "int4": 2 / 15, "palette4": 0.5}
    largest = 0.0
    for name, value in load_file(source / "model.safetensors").items():
        if value.ndim > 1:
            legal = name.replace(".", "_")
            assert interpreter.kinds[legal] == expected_kind
            assert stored[legal].dtype == np.float16
            largest = max(largest, distance(stored[legal], value))
    assert 0 < largest < bounds[kind]
    # What the verification found is what the interpreter decodes.
    assert result.largest_difference == pytest.approx(largest, rel=0.02)
    found = logits(interpreter, IDS)
    assert distance(found, eat.load(source)[0](IDS)) < {"f16": 1e-2, "int8": 0.05}.get(kind, 1)
    # The program computes with the weights that it decodes.
    dense = tmp_path / "dense"
    weights = {
        name: stored[name.replace(".", "_")].astype(np.float32) if value.ndim > 1 else value
        for name, value in load_file(source / "model.safetensors").items()
    }
    dense.mkdir()
    for path in source.iterdir():
        (dense / path.name).write_bytes(path.read_bytes())
    save_file(weights, dense / "model.safetensors", metadata={"format": "pt"})
    assert distance(found, eat.load(dense)[0](IDS)) < 1e-2


def test_coded_packages_are_small(tmp_path: Path) -> None:
    model = random_decoder(
        tmp_path / "model", hidden_size=256, intermediate_size=512, tie_word_embeddings=True
    )
    numbers = sum(value.size for value in load_file(model / "model.safetensors").values())
    bits = {"f16": 16, "int8": 8, "int4": 4 + 20 / 32, "palette4": 4}
    for kind, each in bits.items():
        size = export(model, tmp_path / f"{kind}.mlpackage", type=kind).size_after
        assert numbers * each / 8 <= size < 1.05 * numbers * each / 8 + 60_000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", quick_first([3, 4, 6, 8], 4))
def test_quantized_weights_keep_codes_and_scales(bits: int, dtype: str, source: Path, tmp_path: Path) -> None:
    _core.models.convert(str(source), str(tmp_path / "typed"), dtype)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "typed" / name).write_bytes((source / name).read_bytes())
    folder = tmp_path / "quantized"
    eat.quantize.quantize(tmp_path / "typed", bits=bits, group_size=32, technique="rtn", output=folder)
    output = tmp_path / "model.mlpackage"
    result = export(folder, output, type="auto", verify="on")
    assert result.notes == [f"type {'int4' if bits < 8 else 'int8'}, the closest to the model's own numbers"]
    # Products are rounded to float16, and so are scales that it has not.
    assert result.largest_difference < 2e-3
    model, _ = eat.load(folder, dtype="float32")
    interpreter = Interpreter(output)
    whole = 0
    for path, (_, own, _) in model.quantized_layers.items():
        codes = blocks.unpack(model.parameter(f"{path}.weight").view(np.uint8), own)
        scales, biases = model.parameter(f"{path}.scales"), model.parameter(f"{path}.biases")
        stored = interpreter.parts[f"{path}.weight".replace(".", "_")]
        np.testing.assert_array_equal(stored["data"], codes)
        np.testing.assert_array_equal(stored["scale"], scales.astype(np.float16))
        whole += stored["offset"].dtype == np.uint8
        shift = stored["offset"].astype(np.float64) * scales
        assert np.abs(shift + biases).max() < 2e-3 * np.abs(biases).max()
        if dtype == "bfloat16":
            # float16 has them all.
            np.testing.assert_array_equal(stored["scale"].astype(np.float32), scales)
    assert (whole > 0) == (dtype == "float32")
    assert distance(logits(interpreter, IDS, PIECES), model(IDS)) < 1e-2


def test_blocks_that_float16_has_not_are_rounded_again(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    eat.quantize.quantize(source, bits=4, group_size=32, technique="rtn", output=folder)
    tensors = load_file(folder / "model.safetensors")
    path = "model.layers.0.mlp.up_proj"
    # 1e-9 per code is nothing, beside a bias of a half.
    tensors[f"{path}.scales"][3, 1], tensors[f"{path}.biases"][3, 1] = 1e-9, 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
    result = export(folder, tmp_path / "model.mlpackage", type="int4", verify="on")
    [note] = result.notes
    assert note.startswith("1 blocks of weights were rounded again")
    assert result.largest_difference < 2e-3


def test_palettes_are_those_of_k_means() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(64, 96)).astype(np.float32)
    one, grouped = (find_palettes(matrix, grouped=each) for each in (False, True))
    assert one.numbers.shape == (1, 16)
    assert grouped.numbers.shape == (2, 16)
    errors = []
    for found in (one, grouped):
        size = 64 // len(found.numbers)
        decoded = np.stack([found.numbers[row // size][found.codes[row]] for row in range(64)])
        errors.append(float(((decoded - matrix) ** 2).mean()))
        # Each number is the mean of its weights, and each weight has the nearest.
        for code in range(16):
            mean = matrix[:size][found.codes[:size] == code].mean()
            assert abs(mean - found.numbers[0, code]) < 5e-3
        nearest = np.abs(matrix[:size, :, None] - found.numbers[0].astype(np.float32)).argmin(-1)
        assert (nearest == found.codes[:size]).mean() > 0.999
    # 16 levels of a normal distribution leave at least 0.0095 (Lloyd, Max).
    assert errors[1] < errors[0] < 0.011
    few = np.array([[1, 2], [2, 3]], np.float32)
    found = find_palettes(few, grouped=True)
    np.testing.assert_array_equal(found.numbers[0][found.codes], few)


def test_adapters_are_merged(source: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", source)
    expected = eat.load(source, adapter)[0](IDS)
    assert distance(eat.load(source)[0](IDS), expected) > 0.03
    export(source, tmp_path / "model.mlpackage", type="f16", adapter_path=adapter)
    assert distance(logits(Interpreter(tmp_path / "model.mlpackage"), IDS), expected) < 1e-2


def test_the_command_writes_a_swift_package(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["lora-finetuning-mlx:export", "--model-path", str(source), "--format", "coreml", "--type", "f16"]
    words += ["--swift", "--context-length", "32", "--output", str(tmp_path / "package"), "--quiet"]
    assert main(words) == 0
    printed = capfd.readouterr()
    assert "largest difference of weights" in printed.out
    assert "at most 32 tokens, not 128" in printed.out
    assert printed.err == ""
    folder = tmp_path / "package"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    resources = "Sources/LanguageModel/Resources"
    assert names >= {
        "Package.swift",
        "README.md",
        "Sources/LanguageModel/LanguageModel.swift",
        "Sources/generate/main.swift",
        f"{resources}/tokenizer.json",
        f"{resources}/config.json",
        f"{resources}/Model.mlpackage/Manifest.json",
    }
    interpreter = Interpreter(folder / resources / "Model.mlpackage")
    assert interpreter.states["keyCache"].shape == (2, 1, 2, 32, 32)
    assert interpreter.facts["context_length"] == "32"
    assert interpreter.facts["eos_token_ids"] == ",".join(map(str, eat.load(source)[1].eos_token_ids))
    # Names in the program are those that the Swift code asks for.
    code = (folder / "Sources/LanguageModel/LanguageModel.swift").read_text()
    for name in (*interpreter.inputs, *interpreter.outputs, "context_length", "eos_token_ids"):
        assert f'"{name}"' in code
    assert main(words) == 2
    assert "exists" in capfd.readouterr().err


def test_nothing_is_printed(source: Path, tmp_path: Path) -> None:
    program = """
import sys
import efficientai_toolkit as eat
eat.export(sys.argv[1], format="coreml", output=sys.argv[2])
"""
    words = [sys.executable, "-W", "default", "-c", program, str(source), str(tmp_path / "model.mlpackage")]
    found = subprocess.run(words, check=True, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("", "")


def test_what_does_not_fit_is_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    powers = tmp_path / "mxfp4"
    layers = {"*.mlp.*": "mxfp4"}
    eat.quantize.quantize(source, layers=layers, bits=4, group_size=32, technique="rtn", output=powers)
    odd = random_decoder(tmp_path / "odd", "llama", intermediate_size=80)
    large = random_decoder(tmp_path / "large", "llama")
    tensors = load_file(large / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = 1e5
    save_file(tensors, large / "model.safetensors", metadata={"format": "pt"})
    here = tmp_path / "here"
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (source, {"type": "q4_k"}, "`type` must be one of auto, f16, int8, int4, palette4"),
        (source, {"context_length": 129}, "`context_length` 129 is more than the 128 tokens"),
        (source, {"context_length": 0}, "`context_length` must be at least 1"),
        (source, {"minimum_deployment_target": "iOS15"}, "minimum_deployment_target"),
        (source, {"swift": True, "minimum_deployment_target": "iOS17"}, "minimum_deployment_target` iOS18"),
        (source, {"swift": True, "output": here / "a.mlpackage"}, r"a name without \.mlpackage"),
        (source, {"swift": True, "format": "onnx"}, "`swift` goes with `format` coreml"),
        (source, {"calibration": source / "config.json"}, "`calibration` has no effect on coreml"),
        (odd, {"type": "int4"}, "rows of 80 weights of .*down_proj .* choose f16 or palette4"),
        (large, {"type": "f16"}, "lm_head.weight are too large for float16"),
        (powers, {"type": "int4"}, "is in mxfp4, .* choose f16 or palette4"),
    ]
    for model, settings, message in refused:
        with pytest.raises(ConfigError, match=message):
            eat.export(model, **{"format": "coreml", "output": here / "model", **settings})
        assert not here.exists() or list(here.iterdir()) == []


def test_damaged_packages_are_found(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientai_toolkit.exports.coreml import package
    from efficientai_toolkit.exports.coreml.writer import CoreMLWriter

    written = CoreMLWriter.write

    def damage(writer: CoreMLWriter) -> Any:
        result = written(writer)
        data = writer.job.output / "Data/com.apple.CoreML/model.mlmodel"
        data.write_bytes(data.read_bytes()[:-200])
        return result

    monkeypatch.setattr(CoreMLWriter, "write", damage)
    with pytest.raises(DeploymentError, match="coremltools cannot read the package back"):
        export(source, tmp_path / "model.mlpackage", verify="on")

    def fail(*_: object, **__: object) -> None:
        message = "no space"
        raise OSError(message)

    monkeypatch.undo()
    monkeypatch.setattr(package, "save", fail)
    with pytest.raises(OSError, match="no space"):
        export(source, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model.mlpackage"]


@pytest.mark.skipif(sys.platform != "darwin", reason="predictions need macOS")
def test_core_ml_predicts_what_the_engine_does(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "model.mlpackage", type="f16")
    model = import_coremltools().models.MLModel(str(tmp_path / "model.mlpackage"))
    state = model.make_state()
    expected = eat.load(source)[0](IDS)
    past = 0
    for size in PIECES:
        hidden = np.arange(past + size) > np.arange(past, past + size)[:, None]
        given = {
            "inputIds": IDS[:, past : past + size].astype(np.int32),
            "causalMask": np.where(hidden, np.float16(-3e4), np.float16(0))[None, None],
        }
        found = model.predict(given, state)["logits"]
        assert distance(found, expected[:, past : past + size]) < 2e-2
        past += size
