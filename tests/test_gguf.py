"""GGUF files, written here by the package of llama.cpp, beside model folders with the same numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit import _core
from efficientai_toolkit.adapters import fuse
from efficientai_toolkit.exceptions import ModelLoadingError
from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.dialects.detect import detect_dialect
from efficientai_toolkit.server.version import check_folder, estimate_size
from support.command import run
from support.engine import largest, logits
from support.engine import train as train_rows
from support.gguf_files import (
    ENCODED,
    FAMILIES,
    K_QUANTS,
    SCALINGS,
    family_config,
    random_weights,
    save_dense,
    write_gguf,
)
from support.gguf_tokens import packed_numbers

IDS = np.random.default_rng(0).integers(3, 320, (2, 24))
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
"""Sizes whose rows are whole blocks of 256."""


def write(folder: Path, family: str = "llama", types: Any = None, **changes: Any) -> tuple[Path, Path]:
    """A file, and a model folder with the same numbers."""
    config = family_config(family, **changes)
    weights = random_weights(folder / "original", config)
    path = folder / "model.gguf"
    numbers = write_gguf(path, family, config, weights, types or (lambda _name: "F32"))
    return path, save_dense(folder / "dense", config, numbers)


def unpacked(folder: Path, name: str) -> np.ndarray:
    """A matrix of a model folder as numbers."""
    return packed_numbers(dict(mx.load(str(folder / "model.safetensors"))), name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_as_its_model_folder(tmp_path: Path, family: str) -> None:
    path, dense = write(tmp_path, family)
    expected = logits(dense, IDS)
    assert np.ptp(expected) > 1
    assert largest(logits(path, IDS), expected) < 1e-4


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rotations_are_scaled_as_in_the_model_folder(tmp_path: Path, scaling: str) -> None:
    # Heads of 128, so that some periods of Llama 3 are long.
    path, dense = write(tmp_path, rope_scaling=SCALINGS[scaling], head_dim=128, rope_theta=5e5)
    assert largest(logits(path, IDS), logits(dense, IDS)) < 1e-4
    found = eat.load(path)[0].config["rope_scaling"]
    assert found == SCALINGS[scaling]


def test_factors_of_rotations_that_no_rule_gives_are_kept(tmp_path: Path) -> None:
    scaling = {**SCALINGS["llama3"], "low_freq_factor": 2.0}
    path, dense = write(tmp_path, rope_scaling=scaling, head_dim=128, rope_theta=5e5)
    assert largest(logits(path, IDS), logits(dense, IDS)) < 1e-4
    assert eat.load(path)[0].config["rope_scaling"]["rope_type"] == "longrope"


@pytest.mark.parametrize("kind", ["F16", "BF16", *ENCODED, *K_QUANTS])
def test_numbers_of_every_type_are_exact(tmp_path: Path, kind: str) -> None:
    path, dense = write(tmp_path, types=lambda _name: kind, **WIDE)
    _core.models.convert(str(path), str(tmp_path / "copy"), "float32")
    expected = dict(mx.load(str(dense / "model.safetensors")))
    for name, value in expected.items():
        assert np.array_equal(unpacked(tmp_path / "copy", name), np.array(value)), name
    assert largest(logits(path, IDS), logits(dense, IDS)) < 2e-3


@pytest.mark.parametrize(
    ("kind", "bits"), [("Q4_0", 5), ("Q4_1", 5), ("Q5_0", 6), ("Q5_1", 6), ("Q8_0", 9), ("MXFP4", 4.25)]
)
def test_blocks_of_32_stay_packed(tmp_path: Path, kind: str, bits: float) -> None:
    path, _ = write(tmp_path, types=lambda _name: kind, **WIDE)
    _core.models.convert(str(path), str(tmp_path / "copy"), "float32")
    stored = dict(mx.load(str(tmp_path / "copy" / "model.safetensors")))
    parts = {name: stored[f"model.layers.0.mlp.up_proj.{name}"] for name in ("weight", "scales")}
    assert parts["weight"].dtype == mx.uint32
    count = 256 * 256
    bytes_ = sum(value.nbytes for name, value in stored.items() if ".0.mlp.up_proj." in name)
    assert bytes_ * 8 / count == bits
    described = eat.load(path)[0].config["quantization"]
    assert described["group_size"] == 32


def test_scales_beyond_half_precision_are_kept(tmp_path: Path) -> None:
    config = family_config("llama")
    weights = random_weights(tmp_path / "original", config)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name][0, 0] = 127 * 1000.0
    numbers = write_gguf(tmp_path / "m.gguf", "llama", config, weights, lambda _name: "Q8_0")
    _core.models.convert(str(tmp_path / "m.gguf"), str(tmp_path / "copy"), "float32")
    assert np.array_equal(unpacked(tmp_path / "copy", name), numbers[name])


def test_matrices_that_become_dense_are_told_and_may_be_quantized(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, dense = write(tmp_path, types=lambda name: "Q6_K" if "down" in name else "Q4_K", **WIDE)
    eat.load(path)
    message = next(record.message for record in caplog.records if "model.gguf" in record.message)
    assert "become float32 (14 in Q4_K, 2 in Q6_K)" in message
    assert "bits=4" in message
    caplog.clear()
    small, _ = eat.load(path, bits=8, group_size=32)
    assert not caplog.records
    found = np.asarray(small(IDS))
    assert 1e-6 < largest(found, logits(dense, IDS)) < 0.5


def test_dtypes_are_those_of_the_file(tmp_path: Path) -> None:
    for kind, dtype in (("F32", "float32"), ("F16", "float16"), ("Q4_0", "bfloat16")):
        folder = tmp_path / kind
        path, _ = write(folder, types=lambda _name, kind=kind: kind)
        assert eat.load(path, dtype="auto")[0].dtype == dtype


def test_a_file_answers_prompts_of_every_command(tmp_path: Path) -> None:
    path, _ = write(tmp_path, types=lambda _name: "Q8_0")
    model, tokenizer = eat.load(path)
    assert model.model_type == "llama"
    text = eat.generate(model, tokenizer, [{"role": "user", "content": "the"}], max_tokens=4, ignore_eos=True)
    words = [
        sys.executable,
        "-m",
        "efficientai_toolkit",
        "lora-finetuning-mlx:generate",
        "--model-path",
        str(path),
        "--prompt",
        "the",
    ]
    done = run([*words, "--max-tokens", "4", "--ignore-eos", "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == text


def test_training_on_a_file_names_it_as_base(tmp_path: Path) -> None:
    path, _ = write(tmp_path, types=lambda _name: "Q4_0")
    rows = tmp_path / "data"
    rows.mkdir()
    text = json.dumps({"text": "the cat ate the hat, and the hat ate the cat"})
    for name in ("train", "valid"):
        (rows / f"{name}.jsonl").write_text(f"{text}\n" * 8)
    done = train_rows(path, rows, tmp_path / "run", iters=12, lr=1e-2)
    first, *_, last = done.losses.values()
    assert last < 0.8 * first
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert config["model"] == str(path)
    adapted = logits(path, IDS, tmp_path / "run")
    assert largest(adapted, logits(path, IDS)) > 0.01
    report = fuse(path, tmp_path / "run", tmp_path / "fused", dequantize=True)
    assert report is not None
    fused = logits(tmp_path / "fused", IDS)
    # The weights of the folder are bfloat16.
    assert largest(fused, adapted) < 0.2 * largest(adapted, logits(path, IDS))
    # The folder has what the file had: its tokenizer and its template.
    assert eat.load(tmp_path / "fused")[1].encode("the cat") == eat.load(path)[1].encode("the cat")
    assert eat.load(tmp_path / "fused")[1].has_chat_template


def test_the_server_takes_a_file(tmp_path: Path) -> None:
    path, _ = write(tmp_path, types=lambda name: "Q4_K" if "mlp" in name else "Q8_0", **WIDE)
    assert check_folder(str(path)) == path
    with pytest.raises(ModelLoadingError, match="no folder or GGUF file"):
        check_folder(str(tmp_path / "original" / "config.json"))
    assert type(detect_dialect(path, "llama")).__name__ == "Hermes"
    stored = path.stat().st_size
    assert estimate_size(path, ServeConfig(dtype="float32")) > 2 * stored
    assert estimate_size(path, ServeConfig(bits=4)) < 1.1 * stored


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.type", "adapter", r'm\.gguf: it holds a part of another model \("adapter"\)'),
        ("general.type", "mmproj", "not a model"),
        ("llama.rope.scaling.type", "spiral", r'"llama\.rope\.scaling\.type" is "spiral", expected none'),
        ("split.count", 3, "one of 3 parts of a model; join them with"),
        ("llama.expert_count", 8, "models with experts are not read"),
    ],
)
def test_what_is_no_whole_model_is_refused(tmp_path: Path, key: str, value: str | int, message: str) -> None:
    config = family_config("llama")
    weights = random_weights(tmp_path / "original", config)
    metadata: dict[str, str | int | float] = {key: value}
    if "rope" in key:
        metadata["llama.rope.scaling.factor"] = 2.0
    write_gguf(tmp_path / "m.gguf", "llama", config, weights, metadata=metadata)
    with pytest.raises(ModelLoadingError, match=message):
        eat.load(tmp_path / "m.gguf")


def test_tensors_that_are_missing_or_unknown_are_named(tmp_path: Path) -> None:
    config = family_config("llama")
    weights = random_weights(tmp_path / "original", config)
    name = "model.layers.0.mlp.up_proj.weight"
    less = {other: value for other, value in weights.items() if other != name}
    write_gguf(tmp_path / "m.gguf", "llama", config, less)
    with pytest.raises(ModelLoadingError, match=r'its metadata: missing tensor "model\.layers\.0\.mlp'):
        eat.load(tmp_path / "m.gguf")
    weights["model.layers.1.mlp.up_proj.bias"] = np.ones(128, np.float32)
    write_gguf(tmp_path / "n.gguf", "llama", config, weights)
    with pytest.raises(ModelLoadingError, match=r'unexpected tensor "model\.layers\.1\.mlp'):
        eat.load(tmp_path / "n.gguf")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUX" + bytes(40))
    with pytest.raises(ModelLoadingError, match=r"a\.gguf: not a GGUF file"):
        eat.load(path)
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "big") + bytes(40))
    with pytest.raises(ModelLoadingError, match="big-endian"):
        eat.load(path)
    path.rename(tmp_path / "a.bin")
    with pytest.raises(ModelLoadingError, match="expected the folder that contains it, or a GGUF"):
        eat.load(tmp_path / "a.bin")
