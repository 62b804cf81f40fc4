"""The search for settings, on a model of two small blocks."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, DependencyError, TrainingError
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.optimization import OptimizationConfig, SearchSpace, Trial, optimize
from efficientai_toolkit.study.space import Choices, Range
from support.engine import MODELS
from support.rows import random_ids, write_words

PNG = b"\x89PNG\r\n"


@pytest.fixture
def training(tmp_path: Path) -> TrainingConfig:
    rows = random_ids(6, [6, 9], seed=1)
    # Nothing can be foreseen in random words but those that were learned.
    data = write_words(tmp_path / "data", rows, rows)
    return TrainingConfig(
        model_path=str(MODELS / "llama_gqa"),
        data=str(data),
        output=str(tmp_path / "search"),
        iters=4,
        lr=1e-3,
    )


def test_a_search_finds_settings_that_train_takes(training: TrainingConfig) -> None:
    seen: list[Trial] = []
    space = {
        "lr": {"low": 1e-6, "high": 1e-2, "log": True},
        "lora_rank": {"choices": [2, 8]},
        "batch_size": 2,
    }
    result = optimize(training, space=space, trials=4, pruner="none", on_trial=seen.append)
    assert result.trials == seen
    assert [trial.state for trial in seen] == ["complete"] * 4
    # The settings one came with are tried first.
    assert seen[0].settings == {"lr": 1e-3, "lora_rank": 8}
    losses = [trial.values["loss"] for trial in seen if trial.values]
    assert result.best_values["loss"] == min(losses)
    assert result.front == [result.best]
    best = TrainingConfig.from_file(result.output / "best.yaml")
    assert best.to_dict() | {"output": None} == best.to_dict()
    assert (best.lr, best.batch_size, best.iters) == (seen[result.best].settings["lr"], 2, 4)
    # And they give that loss again.
    again = eat.lora.MLXTrainer(best.with_values({"output": str(result.output / "again")})).train()
    assert again.metrics["loss_after"] == pytest.approx(min(losses), abs=1e-6)
    assert (result.output / "history.png").read_bytes().startswith(PNG)
    assert (result.output / "trials" / "0003" / "adapters.safetensors").is_file()
    assert not (result.output / "trials" / "0003" / "checkpoints").exists()


def test_impossible_runs_are_recorded_and_the_search_goes_on(training: TrainingConfig) -> None:
    space = {"lr": {"choices": [1e-3, 1e30]}, "target_modules": {"choices": ["q_proj,v_proj", "nope"]}}
    result = optimize(training, space=space, trials=8, sampler="random")
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed
    assert all(trial.reason for trial in failed)
    assert any("the loss is" in str(trial.reason) for trial in failed)
    assert any('target_modules names "nope"' in str(trial.reason) for trial in failed)
    assert result.best_values["loss"] < 10


def test_no_run_succeeds(training: TrainingConfig) -> None:
    with pytest.raises(TrainingError, match=r"none of 2 runs succeeded; the first: target_modules names"):
        optimize(training, space={"target_modules": {"choices": ["nope", "nor this"]}}, trials=2)


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + bytes(4096), None])
def test_a_damaged_search_is_not_resumed(content: bytes | None, training: TrainingConfig) -> None:
    path = Path(str(training.output)) / "study.db"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    resumed = training.with_values({"resume": True})
    if content == b"":
        # SQLite's empty database: a search that has not begun.
        assert len(optimize(resumed, space={"lr": {"choices": [1e-3]}}, trials=1).trials) == 1
        return
    with pytest.raises(TrainingError, match=r"study\.db is damaged \(.*\); choose another output, or give"):
        optimize(resumed, space={"lr": {"choices": [1e-3]}}, trials=1)


@pytest.mark.parametrize("damage", ["UPDATE trials SET state = 'odd'",
    "UPDATE trial_values SET value_type = 'odd'", "UPDATE study_user_attributes SET value_json = '{'",
    "UPDATE trial_params SET distribution_json = '{}'"])  # fmt: skip
def test_a_search_with_damaged_tables_is_not_resumed(damage: str, training: TrainingConfig) -> None:
    space = {"lr": {"choices": [1e-3, 1e-4]}}
    optimize(training, space=space, trials=1)
    with sqlite3.connect(Path(str(training.output)) / "study.db") as database:
        database.execute(damage)
    with pytest.raises(TrainingError, match=r"study\.db is damaged"):
        optimize(training.with_values({"resume": True}), space=space, trials=2)


@pytest.mark.parametrize(("pruner", "trials"), [("median", 12), ("hyperband", 8)])
def test_runs_that_lag_behind_are_stopped(training: TrainingConfig, pruner: str, trials: int) -> None:
    space = {"lr": {"choices": [1e-2, 1e-12]}, "batch_size": 2}
    result = optimize(training, space=space, trials=trials, sampler="random", pruner=pruner, evaluations=4)
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned
    assert {trial.settings["lr"] for trial in pruned} == {1e-12}


@pytest.mark.parametrize("pruner", ["hyperband", "none"])
@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_every_sampler_and_pruner(training: TrainingConfig, sampler: str, pruner: str) -> None:
    result = optimize(
        training.with_values({"iters": 1}), trials=2, sampler=sampler, pruner=pruner, evaluations=1
    )
    assert len(result.trials) == 2


def test_an_interrupted_search_goes_on(training: TrainingConfig) -> None:
    space = {"lr": {"low": 1e-5, "high": 1e-2, "log": True}}

    def stop(trial: Trial) -> None:
        if trial.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(training, space=space, trials=4, on_trial=stop)
    with pytest.raises(TrainingError, match="holds a search; choose another --output, or give --resume"):
        optimize(training, space=space, trials=4)
    resumed = training.with_values({"resume": True})
    with pytest.raises(ConfigError, match="started with another space"):
        optimize(resumed, space={"lr": {"choices": [1e-3]}}, trials=4)
    result = optimize(resumed, space=space, trials=4)
    assert [trial.number for trial in result.trials] == [0, 1, 2, 3]
    assert len({trial.settings["lr"] for trial in result.trials}) == 4
    assert len(optimize(resumed, space=space, trials=4).trials) == 4
    assert len(optimize(training.with_values({"overwrite": True}), space=space, trials=1).trials) == 1


def test_nothing_to_resume(training: TrainingConfig) -> None:
    with pytest.raises(TrainingError, match=r"holds no search to resume: there is no study\.db"):
        optimize(training.with_values({"resume": True}))


@pytest.mark.parametrize("objectives", [["loss", "parameters"], ["loss", "time", "memory"]], ids=str)
def test_several_objectives_give_a_front(training: TrainingConfig, objectives: list[str]) -> None:
    space = {"lora_rank": {"choices": [1, 4, 16]}, "lr": {"low": 1e-3, "high": 1e-2}}
    result = optimize(training, space=space, trials=6, objectives=objectives)
    points = {t.number: tuple(t.values.values()) for t in result.trials if t.values}
    assert all(len(values) == len(objectives) and min(values) > 0 for values in points.values())
    for number, values in points.items():
        beaten = any(
            other != values and all(a <= b for a, b in zip(other, values, strict=True))
            for other in points.values()
        )
        assert (number in result.front) is not beaten
    assert (result.output / "front.png").read_bytes().startswith(PNG)


def test_alpha_follows_the_root_of_the_rank() -> None:
    base = TrainingConfig(lora_rank=8, lora_alpha=16)
    space = SearchSpace.from_mapping({"lora_rank": {"choices": [2, 8, 32]}})
    factors = [space.apply(base, {"lora_rank": r}).lora_alpha / r for r in (2, 8, 32)]
    assert factors == pytest.approx([4.0, 2.0, 1.0])
    fixed = SearchSpace.from_mapping({"lora_rank": {"choices": [2, 32]}, "lora_alpha": 16})
    assert fixed.apply(base, {"lora_rank": 32}).lora_alpha == 16


def test_a_file_of_the_space(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "lr: {low: 1e-5, high: 1e-2, log: true}\nlora_rank: {low: 4, high: 32}\n"
        "target_modules: {choices: [[q_proj, v_proj], [o_proj]]}\nschedule: linear\n"
    )
    space = SearchSpace.from_file(path)
    assert space.searched == {
        "lr": Range(low=1e-5, high=1e-2, log=True, whole=False),
        "lora_rank": Range(low=4, high=32, log=False, whole=True),
        "target_modules": Choices(values=("q_proj,v_proj", "o_proj")),
    }
    assert space.fixed == {"schedule": "linear"}
    config = space.apply(TrainingConfig(), {"target_modules": "q_proj,v_proj"})
    assert (config.target_modules, config.schedule) == (["q_proj", "v_proj"], "linear")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"learning_rat": 1}, r"s\.yaml: unknown key `learning_rat`"),
        ({"lora_ranks": {"choices": [1]}}, "did you mean `lora_rank`"),
        ({"output": "x"}, "`output` belongs to the search as a whole"),
        ({"data": {"choices": ["a", "b"]}}, "`data` must be the same in every run"),
        ({"lr": 1e-3}, "nothing is searched"),
        ({"lr": {"low": 1}}, "`lr` has the keys low; expected `low`, `high`"),
        ({"lr": {"low": 1, "high": 2, "step": 1}}, "`lr` has the keys low, high, step; expected"),
        ({"lr": {"low": 2, "high": 1}}, "`lr`: `low` must be below `high`, not 2 and 1"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "`low` must be above 0 where `log` is true"),
        ({"lr": {"low": 1, "high": 2, "log": "yes"}}, "`log` must be true or false, not 'yes'"),
        ({"lr": {"low": "a", "high": 1}}, "`lr` must be a number, not 'a'"),
        ({"lora_rank": {"low": 1.5, "high": 4}}, "`lora_rank` must be a whole number, not 1.5"),
        ({"method": {"low": 1, "high": 4}}, "`method` is not a number; give its values as `choices`"),
        ({"method": {"choices": ["magic"]}}, "`method` must be one of lora, "),
        ({"method": {"choices": []}}, "`choices` must be a list of at least one value"),
        ({"schedule": "wavy"}, "`schedule` must be one of constant"),
    ],
)
def test_wrong_spaces_are_explained(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchSpace.from_mapping(entries, source="s.yaml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objectives": ["speed"]}, "`objectives` names the unknown `speed`; there are loss, time"),
        ({"objectives": []}, "must name each of its objectives once"),
        ({"objectives": ["loss", "loss"]}, "must name each of its objectives once"),
        ({"objectives": ["loss", "time"], "sampler": "gp"}, "`sampler` gp works for one objective"),
        ({"trials": 0}, "`trials` must be at least 1, not 0"),
        ({"timeout_minutes": -1}, "`timeout_minutes` must be above 0"),
        ({"sampler": "grid"}, "`sampler` must be one of tpe, gp, random"),
    ],
)
def test_wrong_searches_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimizationConfig(**settings).check()


def test_a_missing_library_is_named_with_its_cure(
    training: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(DependencyError, match=r"`uv sync --extra optimize` in the checkout"):
        optimize(training)


def test_the_command(training: TrainingConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "lora-finetuning-mlx:optimize",
        "--trials",
        "2",
        "--iters",
        "2",
        "--output",
        str(training.output),
    ]
    words += ["--model-path", str(training.model_path), "--data", str(training.data)]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "trial 1/2  loss" in captured.err
    assert f"lora-finetuning-mlx:train --config {training.output}/best.yaml" in captured.out
    assert main([*words, "--search-space", "nowhere.yaml", "--overwrite"]) == 2
    assert "cannot read the configuration nowhere.yaml" in capsys.readouterr().err
