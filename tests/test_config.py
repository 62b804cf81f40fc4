import argparse
import inspect
import json
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientai_toolkit._base.config import Config, list_options
from efficientai_toolkit.cli.shared.training import build_training_config
from efficientai_toolkit.evaluation import EvaluationConfig
from efficientai_toolkit.exceptions import ConfigError, ToolkitError
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.analysis import AnalysisConfig
from efficientai_toolkit.lora.comparison import ComparisonConfig
from efficientai_toolkit.lora.optimization import OptimizationConfig
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
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    iters=st.none() | st.integers(1, 2**64 - 1),
    modules=st.none() | st.lists(st.text(), min_size=1),
    output=st.none() | st.text(),
)
def test_json_carries_every_value(
    lr: float, iters: int | None, modules: list[str] | None, output: str | None
) -> None:
    config = TrainingConfig(lr=lr, iters=iters, target_modules=modules, output=output)
    assert TrainingConfig().with_values(json.loads(config.to_json())) == config


CONFIGS = [
    TrainingConfig,
    GenerateConfig,
    EvaluationConfig,
    ComparisonConfig,
    OptimizationConfig,
    AnalysisConfig,
]


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (TrainingConfig, {"lr": -1.0}, "lr is -1, expected above 0"),
        (TrainingConfig, {"iters": -3}, "iters is -3, but must not be negative"),
        (TrainingConfig, {"lora_rank": 0}, "lora_rank is 0, expected 1 to 65536"),
        (TrainingConfig, {"lora_rank": 2**32}, "lora_rank is 4294967296, expected at most 4294967295"),
        (TrainingConfig, {"seed": 2**64}, "`seed` must be a whole number, not 18446744073709551616"),
        (TrainingConfig, {"bits": 7}, "bits is 7, expected 2, 3, 4, 5, 6 or 8"),
        (TrainingConfig, {"resume": True, "overwrite": True}, "resume and overwrite exclude each other"),
        (GenerateConfig, {"temperature": -1.0}, "temperature is -1; it must be a finite number, at least 0"),
        (GenerateConfig, {"max_tokens": -1}, "max_tokens is -1, but must not be negative"),
        (EvaluationConfig, {"limit": 0}, "`limit` must be at least 1, not 0"),
        (ComparisonConfig, {"tolerance": -1.0}, "`tolerance` must not be below 0, but is -1.0"),
        (OptimizationConfig, {"trials": 0}, "`trials` must be at least 1, not 0"),
        (AnalysisConfig, {"steps": 0}, "`steps` must be at least 1, not 0"),
    ],
)
def test_wrong_values_are_refused_when_they_are_given(
    config: type[Config], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**values)
    assert str(caught.value) == message
    with pytest.raises(ConfigError) as caught:
        config().with_values(values)
    assert str(caught.value) == message


@pytest.mark.parametrize("config", CONFIGS)
def test_a_misspelt_field_gets_a_suggestion(config: type[Config]) -> None:
    name = list_options(config)[0].name
    with pytest.raises(ConfigError) as caught:
        config(**{f"{name}x": 1})
    assert str(caught.value) == f"unknown key `{name}x`; did you mean `{name}`?"


@pytest.mark.parametrize("config", CONFIGS)
def test_help_explains_the_fields(config: type[Config]) -> None:
    text = inspect.getdoc(config) or ""
    for option in list_options(config):
        assert f"{option.name} : " in text
        assert f"{option.help[1:]}." in text


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_are_shown_by_what_is_not_the_default(config: type[Config]) -> None:
    assert repr(config()) == f"{config.__name__}()"
    assert "(defaults)" in config()._repr_html_()


def test_html_is_escaped() -> None:
    config = TrainingConfig(lr=0.5, data="<b>")
    assert repr(config) == "TrainingConfig(data='<b>', lr=0.5)"
    assert ">data</th><td style='text-align:left'>&#x27;&lt;b&gt;&#x27;</td>" in config._repr_html_()


def test_numbers_of_numpy_and_mlx_are_numbers() -> None:
    config = TrainingConfig(
        iters=cast("int", np.int32(3)),
        lr=cast("float", np.float32(0.5)),
        epochs=cast("float", np.array(2)),
        packing=cast("bool", np.bool_(True)),
        num_layers=cast("int", mx.array(1)),
        rank_pattern={"q_proj": cast("int", np.int64(4))},
        chat_template_kwargs={"k": np.int64(3)},
    )
    assert config == TrainingConfig(
        iters=3, lr=0.5, epochs=2.0, packing=True, num_layers=1, rank_pattern={"q_proj": 4},
        chat_template_kwargs={"k": 3},
    )  # fmt: skip
    assert (type(config.iters), type(config.lr), type(config.packing)) == (int, float, bool)
    for wrong in (np.float64(1.5), np.bool_(True), np.array([3])):
        with pytest.raises(ConfigError, match="`iters` must be a whole number"):
            TrainingConfig(iters=cast("int", wrong))


def test_the_demo_is_that_of_the_command_line() -> None:
    args = argparse.Namespace(config=None)
    assert TrainingConfig.demo() == build_training_config(args, TrainingConfig) != TrainingConfig()
    assert TrainingConfig.demo(lr=0.5).lr == 0.5
    with pytest.raises(ConfigError, match="did you mean `lr`"):
        TrainingConfig.demo(lrr=1)


def test_deep_values_are_errors_of_the_toolkit() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for values in ({"target_modules": deep}, {"chat_template_kwargs": {"a": deep}}, {"lr": deep}):
        with pytest.raises(ConfigError):
            TrainingConfig().with_values(values)
