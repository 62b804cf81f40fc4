"""The frame of exports: table of formats, configuration, command."""

from __future__ import annotations

import inspect
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, DeploymentError
from efficientai_toolkit.exports import FORMATS, ExportConfig
from efficientai_toolkit.exports.card import read_card
from efficientai_toolkit.exports.writer import Writer

NAMESPACES = ("lora-finetuning-mlx", "quantized-model-benchmarks", "cpu-model-compression")
COMMANDS = [f"{namespace}:export" for namespace in NAMESPACES]


def test_the_choices_are_the_table() -> None:
    assert set(get_args(get_type_hints(ExportConfig)["format"])) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_writer_and_a_default_type(name: str) -> None:
    module, _, writer = FORMATS[name].module.partition(":")
    found = getattr(import_module(f"efficientai_toolkit.exports.{module}"), writer)
    assert issubclass(found, Writer)
    assert not inspect.isabstract(found)
    assert FORMATS[name].find_type(None) == FORMATS[name].types[0]


def test_defaults_equal_the_engines() -> None:
    from efficientai_toolkit._engine.core import core

    engine = json.loads(core.exports.defaults())
    ours = {**ExportConfig().to_dict(), "type": FORMATS["gguf"].types[0]}
    assert engine == {name: ours[name] for name in engine}


def test_outputs_are_named_after_model_and_type() -> None:
    names = [
        ExportConfig(**settings).with_defaults_filled().output
        for settings in (
            {"model_path": "org/name@main", "type": "Q8_0"},
            {"model_path": "some/folder"},
            {"model_path": "m", "adapter_path": "runs/style", "merge_adapter": False},
            {"model_path": "m", "format": "awq"},
            {"model_path": "m", "format": "gptq", "type": "int8"},
        )
    ]
    assert names == ["name-q8_0.gguf", "folder-auto.gguf", "style-adapter.gguf", "m-awq", "m-gptq-int8"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "ggml"}, "`format` must be one of gguf"),
        ({"type": "int4"}, "`type` must be one of auto"),
        ({"calibration_sequences": 0}, "`calibration_sequences` must be at least 1"),
        ({"verify": "maybe"}, "`verify` must be one of on, off"),
        ({"quant": "q4_0"}, "unknown key `quant`"),
    ],
)
def test_settings_that_are_wrong_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportConfig(**settings)


def test_cards_that_say_nothing(tmp_path: Path) -> None:
    for text in ("", "# no header", "---\n[", "---\nlicense: [1]\n---\n", "---\nlicense: mit\n"):
        (tmp_path / "README.md").write_text(text)
        card = read_card(tmp_path)
        assert card.name == tmp_path.name
        assert card.license == ("mit" if text.endswith("mit\n") else None)
        assert card.base_models == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_tells_sizes_and_difference(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.gguf"
    assert main([command, "--type", "q8_0", "--output", str(output), "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["format"], result["type"], result["path"]) == ("gguf", "q8_0", str(output))
    assert result["size_after"] == output.stat().st_size < result["size_before"]
    assert 0 < result["largest_difference"] < 0.01
    assert result["exact"] is False
    words = [command, "--type", "f16", "--output", str(output), "--overwrite", "--quiet"]
    assert main(words) == 0
    assert "verified  weights exact" in capsys.readouterr().out
    assert main([*words, "--verify", "off"]) == 0
    assert "verified  no" in capsys.readouterr().out
    assert main([command, "--output", str(output)]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("name", FORMATS)
def test_outputs_that_exist_stay(name: str, tmp_path: Path) -> None:
    output, other = tmp_path / "output", tmp_path / "other"
    if FORMATS[name].suffix:
        output.write_text("mine")
        kept = output
        other.mkdir()
    else:
        output.mkdir()
        kept = output / "mine.txt"
        kept.write_text("mine")
        other.write_text("mine")
    with pytest.raises(DeploymentError, match="exists"):
        eat.export(format=name, output=output)
    assert kept.read_text() == "mine"
    # A folder is never replaced by a file, or the other way round.
    with pytest.raises(DeploymentError, match="but the format is a"):
        eat.export(format=name, output=other, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "output"]
    if not FORMATS[name].suffix:
        with pytest.raises(DeploymentError, match="holds no model, and would be replaced"):
            eat.export(format=name, output=output, overwrite=True)
        kept.rename(output / "config.json")
    eat.export(format=name, output=output, verify="off", overwrite=True)
    assert output.is_dir() or output.read_bytes()[:4] == b"GGUF"
    assert not output.is_dir() or (output / "config.json").read_text() != "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "output"]


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if not each.suffix])
def test_what_is_exported_is_not_replaced(name: str, tmp_path: Path) -> None:
    model = tmp_path / "models" / "mine"
    shutil.copytree(MODEL, model)
    before = sorted(path.name for path in model.iterdir())
    for output in (model, model.parent):
        with pytest.raises(DeploymentError, match=r"holds .*mine, which is exported: choose another output"):
            eat.export(model, format=name, output=output, overwrite=True)
    assert sorted(path.name for path in model.iterdir()) == before


def test_progress_is_reported(tmp_path: Path) -> None:
    stages: list[str] = []

    def see(event: object) -> None:
        assert isinstance(event, eat.callbacks.Progress)
        stages.append(event.stage)

    eat.export(type="f16", output=tmp_path / "model.gguf", callback=see)
    assert set(stages) == {"export", "verify"}
    assert 2 <= len(stages) <= 22
