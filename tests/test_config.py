import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientai_toolkit._base.config import list_options
from efficientai_toolkit.exceptions import ConfigError, ToolkitError
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.models.generation import GenerateConfig


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "lr: 1e-5\nlora_rank: 4\ntarget_modules: [q_proj, v_proj]\nresume: true\n"),
        ("run.json", '{"lr": 1e-5, "lora_rank": 4, "target_modules": ["q_proj", "v_proj"], "resume": true}'),
        ("run.toml", 'lr = 1e-5\nlora_rank = 4\ntarget_modules = ["q_proj", "v_proj"]\nresume = true\n'),
    ],
)
def test_file_formats(tmp_path: Path, name: str, text: str) -> None:
    config = TrainingConfig.from_file(write(tmp_path, name, text))
    assert config == TrainingConfig(lr=1e-5, lora_rank=4, target_modules=["q_proj", "v_proj"], resume=True)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert TrainingConfig.from_file(write(tmp_path, "run.yaml", "# nothing yet\n")) == TrainingConfig()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.yaml", "lora_rnk: 4", "run.yaml: unknown key `lora_rnk`; did you mean `lora_rank`?"),
        ("run.yaml", "batch-size: 4", "run.yaml: unknown key `batch-size`; did you mean `batch_size`?"),
        ("run.json", '{"zzz": 1}', "run.json: unknown key `zzz`; the known keys are model_path, data,"),
        ("run.json", '{"iters": 1.5}', "run.json: `iters` must be a whole number, not 1.5"),
        ("run.json", '{"iters": true}', "run.json: `iters` must be a whole number, not True"),
        ("run.json", '{"lr": null}', "run.json: `lr` must be a number, not None"),
        ("run.json", '{"lr": NaN}', "run.json: `lr` must be a number, not nan"),
        ("run.json", '{"resume": 1}', "run.json: `resume` must be true or false, not 1"),
        (
            "run.json",
            '{"method": "lara"}',
            "run.json: `method` must be one of lora, dora, adalora, prompt_tuning, prefix_tuning, p_tuning,"
            " full, not 'lara'",
        ),
        ("run.json", '{"target_modules": [1]}', "run.json: `target_modules` must be text, not 1"),
        ("run.json", '{"target_modules": 1}', "run.json: `target_modules` must be a list, not 1"),
        ("run.json", "[1, 2]", "run.json: expected `key: value` pairs, found list"),
        ("run.json", '{"lr": }', "run.json: Expecting value: line 1 column 8"),
        ("run.toml", "lr = ", "run.toml: Invalid value"),
        ("run.yaml", "lr: [1", "run.yaml: while parsing a flow sequence"),
        ("run.ini", "lr=1", "run.ini: a configuration is a .yaml, .json or .toml file, not .ini"),
    ],
)
def test_mistakes_in_a_file_name_file_and_key(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_file(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        TrainingConfig.from_file(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        TrainingConfig.from_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model_path: caf\xe9")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        TrainingConfig.from_file(tmp_path / "latin.yaml")


def test_values_get_the_type_of_their_field() -> None:
    config = TrainingConfig(lr=1, lora_alpha=16, model_path=Path("here"))  # type: ignore[arg-type]
    assert (config.lr, config.lora_alpha, config.model_path) == (1.0, 16.0, "here")
    assert '"lora_alpha": 16.0' in config.to_json()
    with pytest.raises(ValueError, match="`seed` must be a whole number"):
        TrainingConfig(seed="7")  # type: ignore[arg-type]


def test_a_config_does_not_change_and_takes_names_only() -> None:
    config = TrainingConfig()
    with pytest.raises(AttributeError):
        config.lr = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        TrainingConfig("model")  # type: ignore[call-arg]


def test_default_lists_are_not_shared() -> None:
    first = GenerateConfig()
    first.stop.append("x")
    assert GenerateConfig().stop == []


def test_every_option_has_a_help_text() -> None:
    for config in (TrainingConfig, GenerateConfig):
        for option in list_options(config):
            assert option.help, option.name
            assert not option.help.endswith("."), option.name


def test_a_config_error_is_a_toolkit_error() -> None:
    with pytest.raises(ToolkitError):
        GenerateConfig().with_values({"temprature": 1.0})


@given(
    lr=st.floats(allow_nan=False, allow_infinity=False),
    iters=st.none() | st.integers(),
    modules=st.none() | st.lists(st.text()),
    output=st.none() | st.text(),
)
def test_json_carries_every_value(
    lr: float, iters: int | None, modules: list[str] | None, output: str | None
) -> None:
    config = TrainingConfig(lr=lr, iters=iters, target_modules=modules, output=output)
    assert TrainingConfig().with_values(json.loads(config.to_json())) == config
