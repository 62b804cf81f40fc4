"""What trackers wrote, as the programs that they are made for read it."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.callbacks import Callback, Evaluated, Event, Run, Step
from efficientai_toolkit.exceptions import ConfigError, DependencyError
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
from efficientai_toolkit.study.record import load_run
from efficientai_toolkit.trackers import Tracker
from efficientai_toolkit.trackers.metrics import get_metrics
from efficientai_toolkit.trackers.wandb import choose_mode
from efficientai_toolkit.trackers.wandb_file import read_records
from support.engine import MODELS
from support.rows import random_ids, write_words

# Of the versions of SQLAlchemy that MLflow does not know yet.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

STEPS, CRASH, SAVED = 8, 5, 4
Curves = dict[str, dict[int, float]]


@dataclass
class Crashed:
    """A run that failed after step 5 and was resumed from the checkpoint of step 4."""

    output: Path
    store: str
    before: Curves
    """What the first part was told, until it failed."""
    after: Curves
    """What the second part was told."""
    status_between: str
    id_between: str

    @property
    def first_counts(self) -> Curves:
        """What a store has that keeps what it has."""
        return {name: self.after.get(name, {}) | self.before.get(name, {}) for name in self.names}

    @property
    def last_counts(self) -> Curves:
        """What a file has whose end was cut off after the checkpoint."""
        kept = {n: {s: x for s, x in curve.items() if s <= SAVED} for n, curve in self.before.items()}
        return {name: self.after.get(name, {}) | kept.get(name, {}) for name in self.names}

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.before, *self.after]))


class Collect(Callback):
    """Remembers the metrics, and may fail."""

    def __init__(self, crash: int | None = None) -> None:
        self.curves: Curves = {}
        self.crash = crash

    def on(self, event: Event) -> None:
        step, metrics = get_metrics(event) or (0, {})
        for name, value in metrics.items():
            assert step not in self.curves.setdefault(name, {}), "told twice"
            self.curves[name][step] = value
        if isinstance(event, Step) and event.step == self.crash:
            message = "the power went"
            raise RuntimeError(message)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    folder = tmp_path_factory.mktemp("training")
    rows = random_ids(10, [5, 9, 14, 20], seed=1)
    data = write_words(folder / "data", rows, random_ids(3, [8, 13], seed=2))
    return TrainingConfig(
        model_path=str(MODELS / "llama_gqa"), data=str(data), iters=STEPS, lr=1e-3, batch_size=2,
        eval_every=2, save_every=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def clean_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Neither settings of whoever runs the tests, nor files in his home."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "XDG_"))]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        yield home


@pytest.fixture(scope="module")
def crashed(training: TrainingConfig, clean_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    """One run for all tests: these libraries take seconds to start."""
    output = tmp_path_factory.mktemp("runs") / "lora run"
    config = training.with_values({"output": str(output)})
    tracker = Tracker("tensorboard,mlflow", "wandb", "jsonl", "csv", tags={"team": "red"})
    first = Collect(crash=CRASH)
    with pytest.raises(RuntimeError, match="the power went"):
        MLXTrainer(config, callback=[tracker, first]).train()
    store = f"sqlite:///{output.parent / 'mlflow.db'}"
    between = only_run(store)
    # As if the process had been killed, which saves no checkpoint.
    shutil.rmtree(output / "checkpoints" / f"step-{CRASH:07}")
    second = Collect()
    MLXTrainer(config.with_values({"resume": True}), callback=[tracker, second]).train()
    return Crashed(
        output=output,
        store=store,
        before=first.curves,
        after=second.curves,
        status_between=between.info.status,
        id_between=between.info.run_id,
    )


def only_run(store: str) -> Any:
    client = import_module("mlflow").MlflowClient(store)
    experiment = client.get_experiment_by_name("efficientai-toolkit")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_the_run_was_resumed_in_the_middle(crashed: Crashed) -> None:
    assert max(crashed.before["train/loss"]) == CRASH
    assert min(crashed.after["train/loss"]) == SAVED + 1
    assert {"train/lr", "train/grad_norm", "train/tokens_per_second", "valid/perplexity"} <= set(
        crashed.names
    )
    # A step that is trained again has the same loss, so that either of its values may be kept.
    assert crashed.before["train/loss"][CRASH] == crashed.after["train/loss"][CRASH]


def test_the_record_of_a_run(crashed: Crashed) -> None:
    run = load_run(crashed.output)
    assert (run.kind, run.status, run.error) == ("lora", "finished", None)
    assert run.configuration["lr"] == 1e-3
    assert run.data["files"] == 2
    assert run.resumed is not None
    report = json.loads((crashed.output / "training.json").read_text())["report"]
    assert run.result["loss_after"] == report["loss_after"]
    assert run.result["final_loss"] == crashed.after["train/loss"][STEPS]


def test_tensorboard_reads_its_files(crashed: Crashed) -> None:
    accumulator: Any = import_module(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(crashed.output / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    assert set(tags["scalars"]) == set(crashed.names)
    for name, curve in crashed.last_counts.items():
        # One value per step, in 32 bits.
        read = {scalar.step: scalar.value for scalar in accumulator.Scalars(name)}
        assert len(accumulator.Scalars(name)) == len(read)
        assert read == {step: float(np.float32(value)) for step, value in curve.items()}
    text = accumulator.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"lr": 0.001' in text
    results = [e.tensor_proto.string_val[0].decode() for e in accumulator.Tensors("result/text_summary")]
    assert '"status": "finished"' in results[-1]


def test_mlflow_reads_its_store(crashed: Crashed) -> None:
    run = only_run(crashed.store)
    client = import_module("mlflow").MlflowClient(crashed.store)
    # One run, which failed and then was finished.
    assert (run.info.run_id, crashed.status_between) == (crashed.id_between, "FAILED")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "lora run")
    for name, curve in crashed.first_counts.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert len(history) == len(curve)
        assert {metric.step: metric.value for metric in history} == curve
    configuration = load_run(crashed.output).configuration
    assert set(run.data.params) == set(configuration)
    assert (run.data.params["lr"], run.data.params["method"]) == ("0.001", "lora")
    assert run.data.tags["team"] == "red"
    assert run.data.tags["output"] == str(crashed.output)
    assert run.data.metrics["result/loss_after"] == load_run(crashed.output).result["loss_after"]
    # Nothing beside the runs, and nothing in the home folder.
    assert sorted(path.name for path in crashed.output.parent.iterdir()) == ["lora run", "mlflow.db"]


def test_weights_and_biases_reads_its_files(crashed: Crashed) -> None:
    run_id = load_run(crashed.output).id
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    files = sorted((crashed.output / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert len(files) == 2
    rows: list[tuple[int, dict[str, float]]] = []
    parts: list[list[Any]] = [[messages.Record.FromString(data) for data in read_records(p)] for p in files]
    for record in (record for part in parts for record in part):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            rows.append((record.history.step.num, {key: json.loads(text) for key, text in items.items()}))
    assert [step for step, _ in rows] == list(range(STEPS + 1))
    read: Curves = {name: {s: row[name] for s, row in rows if name in row} for name in crashed.names}
    assert read == crashed.first_counts
    for part, exit_code in zip(parts, (1, 0), strict=True):
        (run,) = (record.run for record in part if record.WhichOneof("record_type") == "run")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert (run.run_id, run.project, run.display_name) == (run_id, "efficientai-toolkit", "lora run")
        assert (config["lr"], config["run"]["team"]) == (1e-3, "red")
        assert [r.exit.exit_code for r in part if r.WhichOneof("record_type") == "exit"] == [exit_code]
    summary = {
        item.key: json.loads(item.value_json)
        for record in parts[1]
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert summary["status"] == "finished"
    assert summary["loss_after"] == load_run(crashed.output).result["loss_after"]


def test_json_lines_and_csv(crashed: Crashed) -> None:
    lines = [json.loads(line) for line in (crashed.output / "metrics.jsonl").read_text().splitlines()]
    with (crashed.output / "metrics.csv").open(newline="") as file:
        table = [{k: float(x) for k, x in row.items() if x} for row in csv.DictReader(file)]
    assert table == lines
    for name, curve in crashed.last_counts.items():
        points = [(line["step"], line[name]) for line in lines if name in line]
        assert len(points) == len(curve)
        assert dict(points) == curve


def test_a_run_in_the_place_of_another_one(training: TrainingConfig, tmp_path: Path) -> None:
    config = training.with_values({"output": str(tmp_path / "one"), "iters": 2, "overwrite": True})
    for _ in range(2):
        collect = Collect()
        MLXTrainer(config, callback=[Tracker("jsonl", "tensorboard"), collect]).train()
        lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 4
        assert json.loads(lines[-2])["train/loss"] == collect.curves["train/loss"][2]
        assert len(list((tmp_path / "one" / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("name", ["jsonl", "csv", "tensorboard", "wandb", "mlflow"])
def test_links_are_not_followed(
    name: str, training: TrainingConfig, clean_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    precious = tmp_path / "precious"
    output = tmp_path / "runs" / "one"
    output.mkdir(parents=True)
    files = {"jsonl": "metrics.jsonl", "csv": "metrics.csv", "mlflow": "../mlflow.db"}
    place = Path(os.path.normpath(output / files.get(name, name)))
    if name in {"tensorboard", "wandb"}:
        precious.mkdir()
    else:
        precious.write_text("years of work")
    place.symlink_to(precious)
    config = training.with_values({"output": str(output), "iters": 2, "eval_every": 0})
    result = MLXTrainer(config, callback=Tracker(name)).train()
    assert result.metrics["steps"] == 2
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"tracking with {name} ends here, the run goes on: {place} is a symbolic link")
    assert not list(precious.iterdir()) if precious.is_dir() else precious.read_text() == "years of work"


def test_a_server_that_is_gone(
    training: TrainingConfig,
    clean_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = training.with_values({"output": str(tmp_path / "one"), "iters": 2, "eval_every": 0})
    assert MLXTrainer(config, callback=Tracker("mlflow", "jsonl")).train().metrics["steps"] == 2
    warnings = [record for record in caplog.records if record.name == "efficientai_toolkit.trackers"]
    assert [record.getMessage()[:44] for record in warnings] == [
        "tracking with mlflow ends here, the run goes"
    ]
    # The other one goes on.
    assert len((tmp_path / "one" / "metrics.jsonl").read_text().splitlines()) == 4
    assert load_run(tmp_path / "one").status == "finished"


@pytest.mark.parametrize("name", ["what?", "100%", "a b#c"])
def test_paths_that_an_address_cannot_have(
    name: str, training: TrainingConfig, clean_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / name / "one"
    config = training.with_values({"output": str(output), "iters": 1, "eval_every": 0})
    MLXTrainer(config, callback=Tracker("mlflow")).train()
    warnings = [r.getMessage() for r in caplog.records if r.name == "efficientai_toolkit.trackers"]
    if name == "a b#c":
        assert not warnings
        assert only_run(f"sqlite:///{output.parent / 'mlflow.db'}").info.status == "FINISHED"
    else:
        assert "choose an output without ? and %" in warnings[0]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_a_disk_that_is_full(
    name: str, training: TrainingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fill(Tracker):
        def begin(self, run: Run) -> None:
            super().begin(run)
            # A folder where the file belongs cannot be written, whoever asks.
            (run.folder / f"metrics.{name}").mkdir()

    config = training.with_values({"output": str(tmp_path / "one"), "iters": 2, "eval_every": 0})
    assert MLXTrainer(config, callback=Fill(name)).train().metrics["steps"] == 2
    assert len([r for r in caplog.records if r.name == "efficientai_toolkit.trackers"]) == 1


def test_unknown_trackers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord'; .*did you mean tensorboard\?"):
        Tracker("jsonl,tensorbord")
    with pytest.raises(
        ConfigError, match="unknown tracker ''; there are tensorboard, mlflow, wandb, jsonl, csv"
    ):
        Tracker("")


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("mlflow", "alembic")]
)
def test_what_is_not_installed_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "efficientai_toolkit.trackers.names.find_spec", lambda asked: None if asked == module else asked
    )
    with pytest.raises(
        DependencyError, match=rf"tracking with {name} needs {module}.*uv sync --extra {name}"
    ):
        Tracker(name)


def test_nothing_is_sent_unless_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert choose_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert choose_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert choose_mode() == "offline"


def test_metrics_of_events() -> None:
    evaluated = Evaluated(step=3, loss=1.5, perplexity=None, reward_accuracy=0.75, reward_margin=0.5)
    assert get_metrics(evaluated) == (
        3,
        {"valid/loss": 1.5, "valid/reward_accuracy": 0.75, "valid/reward_margin": 0.5},
    )


def test_the_names_of_the_package() -> None:
    assert set(eat.trackers.TRACKERS) == {"tensorboard", "mlflow", "wandb", "jsonl", "csv"}
