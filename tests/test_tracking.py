"""Runs that are read back: lists, single runs, comparisons, exports."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.callbacks import Callback, Event, Run, Started
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, DependencyError, TrainingError
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig, analyze, compare, optimize
from efficientai_toolkit.quantize import QuantizeConfig, quantize
from efficientai_toolkit.study.follow import Follower
from efficientai_toolkit.study.record import Recorder, load_run
from efficientai_toolkit.trackers import Tracker, draw_runs, find_run, read_history, read_runs
from efficientai_toolkit.trackers.plots import draw_text
from support.engine import MODELS
from support.models import wide_llama
from support.rows import random_ids, write_words

Capture = pytest.CaptureFixture[str]
Answer = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    folder = tmp_path_factory.mktemp("training")
    rows = random_ids(6, [6, 9], seed=1)
    return TrainingConfig(
        model_path=str(MODELS / "llama_gqa"), data=str(write_words(folder / "data", rows, rows)), iters=3,
        lr=1e-2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(training: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, one of which failed, one that is damaged, and one of another program."""
    folder = tmp_path_factory.mktemp("runs")

    def fail(event: object) -> None:
        if type(event).__name__ == "Step":
            message = "the \x1b[31mdisk\nis full"
            raise RuntimeError(message)

    for name, lr in (("one", 1e-2), ("two", 1e-3)):
        config = training.with_values({"output": str(folder / name), "lr": lr})
        MLXTrainer(config, callback=Tracker("jsonl") if name == "one" else None).train()
    with pytest.raises(RuntimeError):
        MLXTrainer(training.with_values({"output": str(folder / "bad")}), callback=fail).train()
    for name, text in (("damaged", "{"), ("other", '{"lr": 1}')):
        (folder / name).mkdir()
        (folder / name / "run.json").write_text(text)
    (folder / "link").mkdir()
    (folder / "link" / "run.json").symlink_to(folder / "one" / "run.json")
    return folder


@pytest.fixture
def answer(capsys: Capture) -> Answer:
    """The JSON of a command."""

    def run(*words: object) -> dict[str, Any]:
        assert main([*map(str, words), "--json"]) == 0
        value: dict[str, Any] = json.loads(capsys.readouterr().out)
        return value

    return run


def test_a_folder_of_runs(runs: Path) -> None:
    found = read_runs(runs)
    assert {found.name(run): run.status for run in found.runs} == {
        "one": "finished", "two": "finished", "bad": "failed",
    }  # fmt: skip
    assert {path.parent.name: reason for path, reason in found.damaged.items()} == {
        "damaged": "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "other": "`kind` is missing",
        "link": "a symbolic link, which is not followed",
    }


def test_the_list(runs: Path, capsys: Capture, answer: Answer) -> None:
    assert main(["tracking:list", "--runs", str(runs)]) == 0
    out, err = capsys.readouterr()
    header, *lines = out.splitlines()
    assert header.split() == ["run", "kind", "status", "model", "data", "result", "started", "time"]
    assert {line.split()[0]: line.split()[1:5] for line in lines} == {
        "one": ["lora", "finished", "llama_gqa", "data"],
        "two": ["lora", "finished", "llama_gqa", "data"],
        "bad": ["lora", "failed", "llama_gqa", "data"],
    }
    loss = load_run(runs / "one").result["loss_after"]
    assert f"loss_after {loss:.4g}" in lines[0]
    assert err.count("skipped ") == 3
    assert f"skipped {runs / 'other' / 'run.json'}: `kind` is missing" in err
    listed = answer("tracking", "list", "--runs", runs)
    assert [Path(run["folder"]).name for run in listed["runs"]] == ["one", "two", "bad"]
    assert len(listed["damaged"]) == 3


def test_one_run(runs: Path, capsys: Capture, answer: Answer, tmp_path: Path) -> None:
    plot = tmp_path / "one.svg"
    assert main(["tracking:show", "one", "--runs", str(runs), "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    settings = out.partition("settings that differ\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in settings.splitlines() if line.startswith("  ")][:4] == [
        "model_path", "data", "iters", "lr",
    ]  # fmt: skip
    assert "train/tokens_per_second" in out
    assert "•" in out
    assert plot.read_text().lstrip().startswith("<?xml")
    shown = answer("tracking:show", runs / "one")
    assert shown["result"] == load_run(runs / "one").result
    assert [step for step, _ in shown["curves"]["train/loss"]] == [1, 2, 3]
    # By the beginning of its id, too.
    assert answer("tracking:show", shown["id"][:12], "--runs", runs)["folder"] == str(runs / "one")


def test_a_run_that_failed_says_why_and_controls_no_terminal(runs: Path, capsys: Capture) -> None:
    assert main(["tracking:show", str(runs / "bad")]) == 0
    out = capsys.readouterr().out
    assert "the �[31mdisk is full" in out
    assert "\x1b" not in out


def test_curves_without_a_tracker_are_those_of_the_report(runs: Path) -> None:
    report = json.loads((runs / "two" / "training.json").read_text())["report"]
    history = read_history(load_run(runs / "two"))
    assert history.source == runs / "two" / "training.json"
    assert [loss for _, loss in history.curves["train/loss"]] == report["train_losses"]
    assert [list(point) for point in history.curves["valid/loss"]] == report["validation_losses"]
    # And of a run that did not finish, those of its checkpoint.
    assert read_history(load_run(runs / "bad")).curves["train/loss"][0][0] == 1


def test_runs_beside_each_other(runs: Path, capsys: Capture, answer: Answer, tmp_path: Path) -> None:
    plot = tmp_path / "two.png"
    words = [
        "tracking:compare",
        "one",
        "two",
        "--runs",
        str(runs),
        "--plot",
        str(plot),
        "--metric",
        "train/loss",
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    differing = out.partition("\n\n")[0].splitlines()
    assert [line.split() for line in differing[1:]] == [["lr", "0.01", "0.001"]]
    both = answer(*words)
    one, two = (load_run(runs / name) for name in ("one", "two"))
    assert both["settings"] == {"lr": [0.01, 0.001]}
    assert both["metrics"]["loss_after"] == [one.result["loss_after"], two.result["loss_after"]]
    assert len(both["curves"]) == 2


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_exports(kind: str, runs: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / f"runs.{kind}"
    assert main(["tracking:export", "--runs", str(runs), "--format", kind, "--output", str(path)]) == 0
    assert f"wrote 3 runs to {path}" in capsys.readouterr().out
    text = path.read_text()
    if kind == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(text.splitlines()))
        losses = [row["result.loss_after"] for row in rows]
        assert [row["configuration.lr"] for row in rows] == ["0.01", "0.001", "0.01"]
    else:
        rows = json.loads(text) if kind == "json" else [json.loads(line) for line in text.splitlines()]
        losses = [str(row["result"].get("loss_after", "")) for row in rows]
        assert [len(row["curves"]["train/loss"]) for row in rows[:2]] == [3, 3]
    assert losses == [*(str(load_run(runs / name).result["loss_after"]) for name in ("one", "two")), ""]
    # Without a file it is printed.
    assert main(["tracking:export", "one", "--runs", str(runs), "--format", kind]) == 0
    assert str(load_run(runs / "one").result["loss_after"]) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "--runs", "nowhere"], "there is no folder nowhere"),
        (["show", "three"], "there is no run 'three': there are 3 runs in"),
        (["show", "one-"], "there is no run 'one-': did you mean one?"),
        (["show", "damaged"], "run.json is damaged: Expecting property name"),
        (["show", "one", "--plot", "a.pdf"], "a plot is a .png or .svg file, not 'a.pdf'"),
        (["show", "one", "--metric", "train/los"], "there is no metric 'train/los'; there are valid/loss"),
        (["compare", "one"], "a comparison needs at least two runs, not 1"),
        (["export", "--format", "xml"], "--format invalid choice: 'xml'"),
    ],
)
def test_bad_requests(words: list[str], message: str, runs: Path, capsys: Capture, monkeypatch: Any) -> None:
    monkeypatch.chdir(runs.parent)
    where = [] if "--runs" in words else ["--runs", str(runs)]
    assert main([f"tracking:{words[0]}", *words[1:], *where]) == 2
    assert message in capsys.readouterr().err


def test_an_empty_folder(tmp_path: Path, capsys: Capture) -> None:
    assert main(["tracking:list", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"no runs in {tmp_path}; commands that train or search")


def test_track_on_the_command_line(training: TrainingConfig, tmp_path: Path, capsys: Capture) -> None:
    words = ["--model-path", str(training.model_path), "--data", str(training.data), "--iters", "2"]
    words += ["--output", str(tmp_path / "one"), "--quiet"]
    assert main(["lora-finetuning-mlx:train", *words, "--track", "jsonl,csv"]) == 0
    assert {"metrics.jsonl", "metrics.csv", "run.json"} <= {
        path.name for path in (tmp_path / "one").iterdir()
    }
    capsys.readouterr()
    # Before anything is loaded.
    other = [word.replace("one", "two") for word in words]
    assert main(["lora-finetuning-mlx:train", *other, "--track", "json"]) == 2
    assert "unknown tracker 'json'; " in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_search_and_its_trials(training: TrainingConfig, tmp_path: Path, answer: Answer) -> None:
    config = training.with_values({"output": str(tmp_path / "search")})
    result = optimize(config, trials=2, callback=Tracker("jsonl"))
    lines = read_lines(tmp_path / "search")
    assert [(line["step"], line["loss"]) for line in lines] == [
        (trial.number + 1, (trial.values or {})["loss"]) for trial in result.trials
    ]
    assert load_run(tmp_path / "search").result == {**result.best_values, "trials": 2}
    for trial in ("0000", "0001"):
        # A trial is a run.
        folder = tmp_path / "search" / "trials" / trial
        assert load_run(folder).kind == "lora"
        assert [line["step"] for line in read_lines(folder) if "train/loss" in line] == [1, 2, 3]
    optimize(config.with_values({"resume": True}), trials=3, callback=Tracker("jsonl"))
    assert [line["step"] for line in read_lines(tmp_path / "search")] == [1, 2, 3]
    assert load_run(tmp_path / "search").resumed is not None
    whole, parts = (answer("tracking:list", "--runs", tmp_path, *words)["runs"] for words in ([], ["--all"]))
    assert (len(whole), len(parts)) == (1, 4)


def test_a_comparison_and_its_methods(training: TrainingConfig, tmp_path: Path) -> None:
    output = tmp_path / "comparison"
    tracker = Tracker("jsonl")
    config = training.with_values({"output": str(output)})
    result = compare(config, methods=["lora", "full"], plots=False, callback=tracker)
    assert [(x["step"], x["loss_after"]) for x in read_lines(output)] == [
        (number, row.loss_after) for number, row in enumerate(result.rows, 1)
    ]
    for row in result.rows:
        # Each in a process of its own, tracked by this one.
        assert read_lines(output / row.method)[-1]["valid/loss"] == row.loss_after
        assert load_run(output / row.method).status == "finished"


def test_an_analysis(training: TrainingConfig, tmp_path: Path) -> None:
    output = tmp_path / "analysis"
    config = training.with_values({"output": str(output), "iters": 2})
    analysis = analyze(config, steps=1, batches=1, plots=False, callback=Tracker("jsonl"))
    assert [line["loss"] for line in read_lines(output)] == [run.loss for run in analysis.runs]
    assert load_run(output).result["parameters"] == analysis.choice.parameters


def test_a_quantization(training: TrainingConfig, tmp_path: Path) -> None:
    config = QuantizeConfig(
        model_path=str(wide_llama(tmp_path / "model")), output=str(tmp_path / "run"), technique="learned",
        bits=4, group_size=32, calibration=training.data, calibration_sequences=4, sequence_length=8,
        learned_epochs=1.0, embedding_bits=4,
    )  # fmt: skip
    result = quantize(config, callback=Tracker("jsonl"))
    run = load_run(tmp_path / "run")
    assert (run.kind, run.status) == ("quantize", "finished")
    assert run.result["bits_per_weight"] == result.bits_per_weight
    assert run.data["files"] == 2
    assert [line["step"] for line in read_lines(tmp_path / "run") if "train/loss" in line]


def test_what_cannot_start_leaves_no_record(training: TrainingConfig, tmp_path: Path) -> None:
    config = training.with_values({"output": str(tmp_path / "one"), "target_modules": ["nope"]})
    with pytest.raises(ConfigError, match="nope"):
        MLXTrainer(config, callback=Tracker("jsonl")).train()
    assert not list(tmp_path.iterdir())


def test_a_finished_run_keeps_its_record(runs: Path, training: TrainingConfig) -> None:
    before = (runs / "one" / "run.json").read_bytes()
    with pytest.raises(TrainingError, match="holds a finished run"):
        MLXTrainer(training.with_values({"output": str(runs / "one")}), callback=Tracker("jsonl")).train()
    assert (runs / "one" / "run.json").read_bytes() == before


def test_a_plot_needs_matplotlib(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("efficientai_toolkit._base.extras.import_module", fail)
    with pytest.raises(DependencyError, match="a plot needs matplotlib"):
        draw_runs(tmp_path / "a.png", {"one": find_run("one", runs)})


def test_curves_as_text() -> None:
    assert draw_text([(1, 3.0), (2, 2.0), (3, 1.0)], width=8, height=3) == [
        "3 ┤•",
        "  │  •",
        "1 ┤    •",
        "   1   3",
    ]
    # Neither one point nor a flat line divides by zero.
    assert draw_text([(5, 2.0)], width=8, height=2)[1] == "2 ┤•"


def test_a_method_whose_process_was_killed_has_failed(tmp_path: Path) -> None:
    ended: list[Run] = []

    class Ends(Callback):
        def on(self, event: Event) -> None:
            """Of no interest."""

        def end(self, run: Run) -> None:
            ended.append(run)

    started = Started(steps=1, first_step=0, trainable_parameters=1, total_parameters=2)
    with Follower(tmp_path, Ends()) as follower:
        # What its process wrote before it was killed.
        Recorder(tmp_path, kind="lora", configuration={}).start()
        follower.on(started)
        follower.error = "its process was killed by signal 9"
    assert [(run.status, run.error) for run in ended] == [("failed", follower.error)]
    assert load_run(tmp_path) == ended[0]
