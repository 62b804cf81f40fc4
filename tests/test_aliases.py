"""Names of options and values in other tools."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit._base import aliases
from efficientai_toolkit._base.config import list_options
from efficientai_toolkit.cli import main
from efficientai_toolkit.cli.app import build_parser
from efficientai_toolkit.cli.commands import COMMANDS
from efficientai_toolkit.cli.shared.training import GROUPS
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.optimization.space import SearchSpace

TRAIN = "lora-finetuning-mlx:train"
PAGE = Path(__file__).parents[1] / "docs/coming-from.md"
PARSERS = {command.name: build_parser(command) for command in COMMANDS}

EXAMPLES = {
    "--method": "dora", "--schedule": "linear", "--optimizer": "lion", "--dtype": "float16", "--bits": "8",
    "--objective": "dpo",
}  # fmt: skip
"""Values of options that take few."""


def flags(command: str) -> dict[str, Any]:
    return PARSERS[command]._option_string_actions


def parse(command: str, words: list[str]) -> dict[str, Any]:
    parser = PARSERS[command]
    for action in parser._actions:
        action.required = False
    for group in parser._mutually_exclusive_groups:
        group.required = False
    values: dict[str, Any] = vars(parser.parse(words))
    return values


def commands_with(flag: str, without: str) -> list[str]:
    # The method of pruning is no method of training.
    others = (
        {"cpu-model-compression:prune", "cpu-model-compression:validate"} if flag == "--method" else set()
    )
    found = [name for name in PARSERS if flag in flags(name) and without not in flags(name)]
    found = [name for name in found if name not in others]
    assert found, f"no command has {flag}, or all have {without}"
    return found


@pytest.mark.parametrize(("alias", "ours"), aliases.OPTIONS.items())
@pytest.mark.parametrize("equals", [False, True], ids=["space", "equals"])
def test_every_alias_sets_our_option(alias: str, ours: str, equals: bool) -> None:
    value = EXAMPLES.get(ours, "3")
    for command in commands_with(ours, alias):
        words = [f"{alias}={value}"] if equals and alias.startswith("--") else [alias, value]
        assert parse(command, words) == parse(command, [ours, value])


@pytest.mark.parametrize(("alias", "ours"), aliases.FLAGS.items())
def test_every_flag_sets_our_option(alias: str, ours: tuple[str, ...]) -> None:
    for command in commands_with(ours[0], alias):
        expected = parse(command, list(ours))
        assert parse(command, [alias]) == parse(command, [alias, "True"]) == expected
        assert parse(command, [f"{alias}=true"]) == expected
        assert parse(command, [alias, "False"]) == parse(command, [])


@pytest.mark.parametrize(("typed", "ours"), aliases.VALUES.items())
def test_every_value_is_understood(typed: tuple[str, str], ours: tuple[str, ...]) -> None:
    expected = parse(TRAIN, list(ours))
    assert parse(TRAIN, list(typed)) == parse(TRAIN, ["=".join(typed)]) == expected


@pytest.mark.parametrize(("name", "hint"), aliases.HINTS.items())
def test_what_has_no_counterpart_gets_a_hint(
    name: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([TRAIN, name]) == 2
    assert capsys.readouterr().err == f"error: unknown option {name}; {hint}\n"


def test_names_with_underscores_are_understood() -> None:
    words = ["--learning_rate", "1e-3", "--num_train_epochs=2", "--batch_size", "7"]
    assert parse(TRAIN, words) == parse(TRAIN, ["--lr", "1e-3", "--epochs", "2", "--batch-size", "7"])


def test_bits_that_are_given_beat_those_of_qlora() -> None:
    for words in (["--bits", "8", "--method", "qlora"], ["--method", "qlora", "--bits", "8"]):
        assert parse(TRAIN, words) == parse(TRAIN, ["--method", "lora", "--bits", "8"])


def test_a_misspelt_alias_suggests_our_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TRAIN, "--learning-rat", "1e-3"]) == 2
    assert capsys.readouterr().err == "error: unknown option --learning-rat; did you mean --lr?\n"


def test_misspelt_options_with_underscores_or_two_dashes_suggest_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([TRAIN, "--warmup_steps", "3"]) == main([TRAIN, "--r", "4"]) == 2
    hint, rank = capsys.readouterr().err.splitlines()
    assert hint == f"error: unknown option --warmup_steps; {aliases.HINTS['--warmup-steps']}"
    assert rank == "error: unknown option --r; did you mean --lora-rank?"


FIELDS = {option.flag: option.name for option in list_options(TrainingConfig)}


def refusal(key: str, value: Any, folder: Path) -> str:
    """The message about a field in Python, which a file of settings gets too."""
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(**{key: value})
    message = str(caught.value)
    path = folder / "run.json"
    path.write_text(json.dumps({key: value}))
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_file(path)
    assert str(caught.value) == f"{path}: {message}"
    with pytest.raises(ConfigError) as caught:
        SearchSpace.from_mapping({key: value})
    assert str(caught.value) == f"search space: {message}"
    return message


@pytest.mark.parametrize("alias", [alias for alias, ours in aliases.OPTIONS.items() if ours in FIELDS])
def test_fields_of_other_tools_name_ours(alias: str, tmp_path: Path) -> None:
    key = alias.lstrip("-").replace("-", "_")
    ours = FIELDS[aliases.OPTIONS[alias]]
    assert refusal(key, 1, tmp_path) == f"unknown key `{key}`; did you mean `{ours}`?"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learning_rat", 1, "unknown key `learning_rat`; did you mean `lr`?"),
        ("bf16", True, "unknown key `bf16`; set `dtype` to bfloat16"),
        ("completion_only_loss", True, "unknown key `completion_only_loss`; set `mask_prompt` to true"),
        ("warmup_steps", 5, "`warmup_steps`; the warm-up is a share of all steps: `warmup_ratio`"),
        ("lora_scale", 2, "unknown key `lora_scale`; the scale is alpha / rank: set `lora_alpha`"),
        ("method", "qlora", "p_tuning, full, not 'qlora'; did you mean lora with `bits` 4?"),
        ("dtype", "bf16", "one of float32, float16, bfloat16, not 'bf16'; did you mean bfloat16?"),
    ],
)
def test_names_and_values_of_other_tools_get_a_hint(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    assert refusal(key, value, tmp_path).endswith(message)


def test_no_alias_hides_an_option_of_ours() -> None:
    """An alias is needed only where a command lacks the name; nothing is listed twice."""
    names = [*aliases.OPTIONS, *aliases.FLAGS, *aliases.HINTS]
    assert len(names) == len(set(names))
    shown = "".join(parser.format_all_help() for parser in PARSERS.values())
    for name in names:
        if not any(name in flags(command) for command in PARSERS):
            assert not re.search(rf"(?m)^ *{name}[ ,]", shown), name


def test_the_page_lists_every_name() -> None:
    rows = [row for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    listed = [
        (re.findall(r"`([^`]+)`", row.split(" | ")[0]), row.split(" | ")[1].removesuffix(" |"))
        for row in rows
    ]
    page = {name: ours.strip("`") for names, ours in listed for name in names}
    table = dict(aliases.OPTIONS)
    table |= {name: " ".join(ours) for name, ours in aliases.FLAGS.items()}
    table |= {
        " ".join(typed): " ".join(ours) or "leave it out: the default"
        for typed, ours in aliases.VALUES.items()
    }
    table |= aliases.HINTS
    assert page == {name: ours.strip("`") for name, ours in table.items()}


def test_every_setting_of_a_run_has_one_group_at_most() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert {*grouped} < {option.name for option in list_options(TrainingConfig)}
