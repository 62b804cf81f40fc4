"""Settings of the page: as a command, as YAML, and back."""

import shlex
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.cli.lora import train
from efficientai_toolkit.cli.shared.training import build_training_config
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.ui.settings import (
    COMMAND,
    METHODS,
    NUMBERS,
    build_settings,
    format_command,
    format_yaml,
    make_absolute,
    parse_yaml,
    split_settings,
)

SETTINGS: dict[str, Any] = {
    "model_path": "/models/one two",
    "data": "/data/x.jsonl",
    "lr": 3e-4,
    "iters": 20,
    "mask_prompt": False,
    "packing": True,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"q_proj": 4, "layers.0.mlp.up_proj": 16},
    "chat_template_kwargs": {"enable_thinking": False, "style": "it's"},
}


def test_the_command_and_the_yaml_mean_the_same(tmp_path: Path) -> None:
    expected = TrainingConfig(**SETTINGS)
    # A shell joins the lines, which shlex does not.
    words = shlex.split(format_command(SETTINGS).replace("\\\n", ""))
    assert tuple(words[:2]) == COMMAND
    parser = ArgumentParser()
    train.add_arguments(parser)
    assert build_training_config(parser.parse_args(words[2:]), TrainingConfig) == expected
    file = tmp_path / "settings.yaml"
    file.write_text(format_yaml(SETTINGS))
    assert TrainingConfig.from_file(file) == expected
    assert parse_yaml(format_yaml(SETTINGS)) == SETTINGS


@pytest.mark.parametrize("method", METHODS)
def test_methods_come_back_from_their_settings(method: str) -> None:
    numbers = {"lr": 0.001, "lora_rank": 16.0, "iters": None}
    settings = build_settings("embedded", "data/x.jsonl", method, numbers, {"packing": True})
    assert settings["lora_rank"] == 16
    assert type(settings["lora_rank"]) is int
    assert split_settings(settings) == (method, {"packing": True})


def test_a_setting_without_a_field_survives() -> None:
    method, extra = split_settings({"method": "dora", "bits": 8, "seed": 3})
    assert (method, extra) == ("DoRA", {"bits": 8, "seed": 3})
    again = build_settings("embedded", None, method, dict.fromkeys(NUMBERS), extra)
    assert again == {"model_path": "embedded", "method": "dora", "bits": 8, "seed": 3}


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [({"lr": "fast"}, "lr"), ({"batch_size": 1.5}, "batch_size"), ({"epochs": [1]}, "epochs")],
)
def test_wrong_numbers_are_named(numbers: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_settings("embedded", None, "LoRA", numbers, {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lr: [", "stream end"),
        ("- a\n- b", "key: value"),
        ("learning_rte: 1", "unknown key"),
        ("a: &a [x,x]\nb: &b [*a,*a]\n" + "".join(f"c{n}: &c{n} [*b,*b]\n" for n in range(3)), "unknown key"),
        ("lr: !!python/object/apply:os.system ['x']", "python/object"),
        ("x" * 70_000, "characters"),
        ("lr: -1", "lr"),
    ],
)
def test_bad_yaml_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_yaml(text)
    assert "/tmp" not in str(caught.value)


def test_output_folders_are_left_to_the_job() -> None:
    assert parse_yaml("output: /etc\nresume: false\nlr: 0.1") == {"lr": 0.1}


def test_names_become_folders() -> None:
    found = make_absolute({"model_path": "chat", "lr": 1.0}, {"model_path": Path("/models/chat")})
    assert found == {"model_path": "/models/chat", "lr": 1.0}
