"""What exports to folders refuse, and how they write files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import efficientai_toolkit as eat
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, DeploymentError
from efficientai_toolkit.exports.folders.shards import Shards, StoredTensors
from support.affine import affine_decoder
from support.decoders import random_adapter, random_decoder


def export(source: Path, output: Path, **settings: Any) -> Any:
    return eat.export(source, output=output, **settings)


def test_tensors_are_spread_over_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"layer.{index}": rng.normal(size=(10, 10)).astype(np.float32) for index in range(7)}
    shards = Shards(tmp_path, "float32", limit=900)
    for name, array in tensors.items():
        shards.add(name, array)
    shards.finish()
    assert len(list(tmp_path.glob("model-0000?-of-00004.safetensors"))) == 4
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 7 * 400
    assert set(index["weight_map"]) == set(tensors)
    stored = StoredTensors(tmp_path)
    for name, array in tensors.items():
        np.testing.assert_array_equal(stored.read(name), array)
        assert name in mx.load(str(tmp_path / index["weight_map"][name]))
    assert not stored.names


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        (
            {"family": "llama", "hidden_size": 96},
            {"group_size": 64},
            "rows of 96 weights .*choose group_size 32",
        ),
        ({"family": "llama", "hidden_size": 80}, {}, "rows of 80 weights .*choose safetensors"),
        ({}, {"calibration": "text.jsonl"}, "`calibration` has no effect on awq"),
        ({}, {"adapter_path": "adapter", "merge_adapter": False}, "`merge_adapter` is off"),
        ({}, {"checkpoint_format": "marlin"}, "`checkpoint_format` must be one of gptq, gptq_v2"),
        (
            {},
            {"checkpoint_format": "gptq_v2"},
            "`checkpoint_format` is a version of gptq, which awq does not",
        ),
        ({}, {"type": "int8"}, "`type` must be one of auto, int4"),
    ],
)
def test_what_cannot_be_written_is_refused(
    changes: dict[str, Any],
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = random_decoder(tmp_path / "model", **changes)
    random_adapter(tmp_path / "adapter", source)
    (tmp_path / "text.jsonl").write_text('{"text": "words"}\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        export(source, tmp_path / "out", format="awq", **settings)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "adapter", "text.jsonl"}


def test_numbers_too_large_for_float16_are_named(tmp_path: Path) -> None:
    source = random_decoder(tmp_path / "model")
    path = source / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] = 1e6
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"numbers of model\.norm\.weight are too large for float16"):
        export(source, tmp_path / "out", format="awq")
    assert [found.name for found in tmp_path.iterdir()] == ["model"]
    assert export(source, tmp_path / "out", format="compressed-tensors").largest_difference < 0.1


def test_other_families_and_taken_outputs_are_refused(tmp_path: Path) -> None:
    source = random_decoder(tmp_path / "experts", "llama", model_type="qwen3_moe", num_experts=4,
                            num_experts_per_tok=2, moe_intermediate_size=32)  # fmt: skip
    with pytest.raises(
        ConfigError, match="models of type qwen3_moe are not exported to folders; those that are"
    ):
        export(source, tmp_path / "out", format="awq")
    dense = random_decoder(tmp_path / "model")
    (tmp_path / "out").mkdir()
    with pytest.raises(DeploymentError, match="exists"):
        export(dense, tmp_path / "out", format="awq")
    (tmp_path / "out" / "letters.txt").write_text("kept")
    with pytest.raises(DeploymentError, match="holds no model"):
        export(dense, tmp_path / "out", format="awq", overwrite=True)
    for output in (dense, tmp_path):
        with pytest.raises(DeploymentError, match="which is exported: choose another output"):
            export(dense, output, format="safetensors", overwrite=True)
    assert (tmp_path / "out" / "letters.txt").read_text() == "kept"
    export(dense, tmp_path / "other", format="awq")
    assert export(dense, tmp_path / "other", format="safetensors", overwrite=True).exact is True


def test_the_command_tells_what_was_rounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    affine_decoder(tmp_path / "model")
    words = ["lora-finetuning-mlx:export", "--model-path", str(tmp_path / "model"), "--quiet"]
    assert main([*words, "--format", "awq", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "verified  weights exact" in printed
    assert "14 int4, 7 float16" in printed
    assert main([*words, "--format", "gptq", "--output", str(tmp_path / "v2"), "--verify", "off"]) == 0
    assert "verified  no" in capsys.readouterr().out
    assert main([*words, "--format", "gptq", "--type", "int3", "--output", str(tmp_path / "v3")]) == 2
    assert not (tmp_path / "v3").exists()
