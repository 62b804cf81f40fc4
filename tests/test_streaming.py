"""Rows that stay on disk teach what rows in memory would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit._engine.core import core
from efficientai_toolkit.callbacks import Progress, ProgressBar
from efficientai_toolkit.exceptions import ConfigError, DatasetError, TrainingError
from support.command import PROGRAM, options
from support.command import run as run_command
from support.engine import MODELS, PLAIN, Event, Run, train
from support.rows import random_ids, words, write_jsonl, write_words

MODEL = MODELS / "llama_gqa"

# Batches of two make windows of 64 rows, so that an epoch has three.
ROWS = 150
SETTINGS: dict[str, Any] = {"iters": 100, "batch_size": 2, "eval_every": 50}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = random_ids(ROWS, [5, 9, 14, 20], seed=1)
    return write_words(tmp_path / "data", rows, random_ids(3, [8, 13], seed=2))


def both(data: Path | str, tmp_path: Path, **settings: Any) -> tuple[Run, Run]:
    """The same run with rows in memory and on disk."""
    memory = train(MODEL, Path(data), tmp_path / "memory", **{**SETTINGS, **settings})
    disk = train(MODEL, Path(data), tmp_path / "disk", **{**SETTINGS, **settings}, streaming=True)
    return memory, disk


def assert_same(memory: Run, disk: Run) -> None:
    for key in ("train_losses", "validation_losses", "trained_tokens", "steps"):
        assert disk.report[key] == memory.report[key], key
    for name, values in memory.adapter.items():
        np.testing.assert_array_equal(disk.adapter[name], values)


@pytest.mark.parametrize(
    "settings",
    [{}, {"grad_accumulation": 3}, {"batch_size": 7}, {"iters": None, "epochs": 1.5}, {"max_seq_length": 12}],
    ids=str,
)
def test_batches_are_those_of_rows_in_memory(data: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    memory, disk = both(data, tmp_path, **settings)
    assert_same(memory, disk)
    epochs = [[event["epoch"] for event in run.of("step")] for run in (memory, disk)]
    np.testing.assert_allclose(epochs[1], epochs[0], atol=1 / ROWS)
    if "max_seq_length" in settings:
        assert disk.report["truncated_rows"] == memory.report["truncated_rows"] > 0
    told = disk.of("progress")
    assert told == disk.events[: len(told)]
    size = (data / "train.jsonl").stat().st_size
    assert told[-1] == {
        "event": "progress",
        "stage": f"index {data / 'train.jsonl'}",
        "done": size,
        "total": size,
    }
    assert memory.of("progress") == []


def test_rows_are_held_out_and_weighted_as_in_memory(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        rows = [{"text": words(ids)} for ids in random_ids(60, [5, 9, 14], seed=seed)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    assert_same(*both(f"{tmp_path}/a.jsonl=2.5,{tmp_path}/b.jsonl=0.5", tmp_path))


def test_pairs_are_those_in_memory(tmp_path: Path) -> None:
    answers = random_ids(160, [4, 7, 5], seed=3)
    pairs = [
        {"prompt": words([9, 8, 7]), "chosen": f" {words(a)}", "rejected": f" {words(b)}"}
        for a, b in zip(answers[::2], answers[1::2], strict=True)
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    memory, disk = both(path, tmp_path, objective="orpo", iters=60)
    assert_same(memory, disk)
    assert disk.report["train_rewards"] == memory.report["train_rewards"]


@pytest.mark.parametrize("packing", [False, True])
def test_a_run_that_was_interrupted_finds_its_place(data: Path, tmp_path: Path, packing: bool) -> None:
    settings = {**SETTINGS, "streaming": True, "packing": packing, "max_seq_length": 32, "save_every": 10}
    whole = train(MODEL, data, tmp_path / "whole", **settings)

    def stop(_: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == 83:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MODEL, data, tmp_path / "part", stop, **settings)
    resumed = train(MODEL, data, tmp_path / "part", **settings, resume=True)
    assert resumed.report["resumed_from"] == 83
    assert_same(whole, resumed)


def test_packed_rows_hold_every_row_once_an_epoch(data: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "packing": True, "max_seq_length": 32}
    disk = train(MODEL, data, tmp_path / "disk", **settings, streaming=True)
    epochs = [event["epoch"] for event in disk.of("step")]
    steps = epochs.index(1.0) + 1
    memory = train(MODEL, data, tmp_path / "memory", **{**settings, "iters": None, "epochs": 1})
    # One window holds all rows, so even the packing is the same.
    assert steps == memory.report["steps"]
    once = train(MODEL, data, tmp_path / "once", **{**settings, "iters": steps}, streaming=True)
    assert once.report["trained_tokens"] == memory.report["trained_tokens"]


def test_rows_that_teach_nothing_give_their_place_away(tmp_path: Path) -> None:
    answers = random_ids(100, [4, 7], seed=4)
    rows = [
        {"prompt": words([9] * (30 if number % 5 == 0 else 3)), "completion": f" {words(ids)}"}
        for number, ids in enumerate(answers)
    ]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    settings = {**SETTINGS, "iters": 45, "max_seq_length": 20, "streaming": True}
    run = train(MODEL, path, tmp_path / "run", **settings)
    # Ten rows are held out, and those of them count that teach nothing.
    assert run.report["dropped_rows"] == 20
    assert all(np.isfinite(run.report["train_losses"]))
    useless = write_jsonl(tmp_path / "useless.jsonl", rows[::5])
    with pytest.raises(DatasetError, match="has anything to learn within 20 tokens; the longest has"):
        train(MODEL, useless, tmp_path / "useless", **settings)
    mostly = write_words(tmp_path / "mostly", [[5, 6]])
    write_jsonl(mostly / "train.jsonl", rows[::5])
    for packing in (False, True):
        with pytest.raises(DatasetError, match="none of the 20 rows has anything to learn within 20 tokens"):
            train(MODEL, mostly, tmp_path / "mostly_run", **settings, packing=packing)


def test_mistakes_are_named_before_training(data: Path, tmp_path: Path) -> None:
    def refused(path: Path, **settings: Any) -> str:
        run = Run(tmp_path / "run")
        with pytest.raises((ConfigError, DatasetError)) as caught:
            train(MODEL, path, run.output, run=run, **{**SETTINGS, **settings}, streaming=True)
        assert run.of("started") == []
        assert not (run.output / "training.json").exists()
        return str(caught.value)

    for name in ("a.csv", "a.json", "a.parquet", "a.TSV"):
        (tmp_path / name).write_text("text\na\nb\n")
        assert f"{name}: streaming reads jsonl only" in refused(tmp_path / name)
    with (data / "train.jsonl").open("a") as file:
        file.write('\n{"tekst": "a"}\n')
    assert f'train.jsonl:{ROWS + 2}: found keys "tekst"' in refused(data)
    (data / "train.jsonl").write_text("\n\n")
    assert refused(data).endswith("train.jsonl: the file holds no rows")
    assert "packing with streaming needs iters" in refused(data, packing=True, iters=None)
    assert 'streaming is not for objective "dpo"' in refused(data, objective="dpo")


def test_a_file_that_changes_is_noticed(data: Path, tmp_path: Path) -> None:
    path = data / "train.jsonl"

    def spoil(_: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == 1:
            path.write_bytes(b" " * path.stat().st_size)

    with pytest.raises(DatasetError, match=r"train\.jsonl: byte \d+: "):
        train(MODEL, data, tmp_path / "run", spoil, **{**SETTINGS, "iters": 500}, streaming=True)


def test_another_file_cannot_go_on(data: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "streaming": True}

    def stop(_: Run, event: Event) -> None:
        if event["event"] == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MODEL, data, tmp_path / "run", stop, **settings)
    path = data / "train.jsonl"
    # Rows begin at the same bytes.
    path.write_text(path.read_text().replace("t17", "t18"))
    with pytest.raises(TrainingError, match=r"other settings .*data was"):
        train(MODEL, data, tmp_path / "run", **settings, resume=True)


RESIDENT = """
import json, re, sys
from efficientai_toolkit._engine.core import core
config = json.loads(sys.argv[1])
model, tokenizer = core.models.load(config["model_path"], None, config["dtype"])
core.lora.train(model, tokenizer, json.dumps(config), lambda event: None)
print(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process is read there")
def test_memory_does_not_grow_with_the_file(data: Path, tmp_path: Path) -> None:
    def resident(name: str) -> int:
        config = {**PLAIN, "model_path": str(MODEL), "data": str(data), "output": str(tmp_path / name)}
        config |= {"iters": 4, "max_seq_length": 64, "streaming": True, "overwrite": True}
        command = [sys.executable, "-c", RESIDENT, json.dumps(config)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024

    small = resident("small")
    line = json.dumps({"text": words(range(3, 250))}) + "\n"
    (data / "train.jsonl").write_text(line * (64_000_000 // len(line)))
    assert resident("large") - small < 16_000_000


def test_a_large_file_is_described_by_some_of_its_rows(tmp_path: Path) -> None:
    row = json.dumps({"text": "t5 t6 t7"}) + "\n"
    data = write_words(tmp_path / "data", [[5]], [[5, 6]])
    (data / "train.jsonl").write_text(row * 10_050)
    words = options(model_path=MODEL, data=data, streaming=True)
    shown = run_command([str(PROGRAM), "lora-finetuning-mlx:validate", *words])
    assert "10,000 of 10,050 (10,000 text)" in " ".join(shown.stdout.split())


def test_gradients_are_those_of_rows_in_memory(data: Path) -> None:
    model, tokenizer = core.models.load(str(MODEL), None, "float32")
    config = {**PLAIN, "model_path": str(MODEL), "data": str(data), "batch_size": 2}
    probe = json.dumps({"batches": 40, "width": 2})
    reports = [
        json.loads(core.lora.analyze(model, tokenizer, json.dumps({**config, "streaming": streaming}), probe))
        for streaming in (False, True)
    ]
    assert reports[1] == reports[0]


def test_the_bar_tells_how_much_is_read(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("efficientai_toolkit.callbacks.progress_bar._SILENT_SECS", -1.0)
    ProgressBar(sys.stdout).on(Progress(stage="index a.jsonl", done=300, total=1000))
    assert capsys.readouterr().out == "a.jsonl: 30% read\n"
