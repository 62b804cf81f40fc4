"""Processes that train together take the steps of one with a larger batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from support.command import PROGRAM, run
from support.engine import PLAIN, tensors, train
from support.rows import random_ids, write_words

pytestmark = pytest.mark.alone

SCRIPT = """
import json, sys
from efficientai_toolkit._engine.core import core
config = json.loads(sys.argv[1])
model, tokenizer = core.models.load(config["model_path"], None, config["dtype"])
events = []
report = core.lora.train(model, tokenizer, json.dumps(config), events.append)
rank = core.device.process_group()[0]
print(json.dumps({"rank": rank, "events": len(events), "report": json.loads(report)}))
"""


def launch(folder: Path, *command: str) -> list[tuple[int, str, str]]:
    """Exit code, standard output and error of two processes that know each other, as of ``mlx.launch``."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{each.getsockname()[1]}"] for each in sockets]))
    for each in sockets:
        each.close()
    ring = {**os.environ, "MLX_HOSTFILE": str(hosts), "EAT_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            command,
            env={**ring, "MLX_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [run.communicate(timeout=300) for run in runs]
    return [(run.returncode, *output) for run, output in zip(runs, outputs, strict=True)]


def together(folder: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """What every process reports, by rank."""
    reports: list[dict[str, Any]] = []
    for code, out, error in launch(folder, sys.executable, "-c", SCRIPT, json.dumps({**PLAIN, **config})):
        assert code == 0, error
        reports.append(json.loads(out))
    return reports


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "full", "optimizer": "sgd"},
        {"method": "adalora", "lora_rank": 4, "grad_accumulation": 2, "max_grad_norm": 0.1},
        {"packing": True, "max_seq_length": 40, "keep_best": True, "eval_every": 2},
        {"streaming": True},
        {"method": "prefix_tuning", "prefix_projection": True},
    ],
    ids=str,
)
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path, settings: dict[str, Any]) -> None:
    # The last batch of an epoch has one row: one of the processes has nothing to read then.
    rows = random_ids(9, [5, 9, 14, 20], seed=1)
    data = write_words(tmp_path / "data", rows, random_ids(3, [8, 13], seed=2))
    one = train(MODEL, data, tmp_path / "one", iters=6, **{"batch_size": 4, **settings})
    places = {"model_path": str(MODEL), "data": str(data), "output": str(tmp_path / "two")}
    reports = together(tmp_path, {**places, "iters": 6, "batch_size": 2, **settings})
    first, second = (each["report"] for each in reports)
    assert first["processes"] == 2
    for report in (first, second):
        assert report["trained_tokens"] == one.report["trained_tokens"]
        np.testing.assert_allclose(report["train_losses"], one.report["train_losses"], rtol=1e-5)
        np.testing.assert_allclose(report["validation_losses"], one.report["validation_losses"], rtol=1e-5)
    names = {"full": "model.safetensors", "prefix_tuning": "adapter_model.safetensors"}
    name = names.get(settings.get("method", "lora"), "adapters.safetensors")
    alone, shared = tensors(tmp_path / "one" / name), tensors(tmp_path / "two" / name)
    assert alone.keys() == shared.keys()
    for key, value in alone.items():
        np.testing.assert_allclose(shared[key], value, atol=2e-4, err_msg=key)


def test_a_run_of_one_is_continued_by_two_and_only_the_first_writes_and_speaks(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"iters": 6, "batch_size": 4, "save_every": 2}
    whole = train(MODEL, INSTRUCTIONS, tmp_path / "whole", **settings)

    def stop(run: Any, event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MODEL, INSTRUCTIONS, tmp_path / "part", stop, **settings)
    places = {"model_path": str(MODEL), "data": str(INSTRUCTIONS), "output": str(tmp_path / "part")}
    first, second = together(tmp_path, {**places, **settings, "batch_size": 2, "resume": True})
    assert first["report"]["resumed_from"] == second["report"]["resumed_from"] == 3
    assert (first["events"] > 0, second["events"]) == (True, 0)
    np.testing.assert_allclose(first["report"]["train_losses"], whole.report["train_losses"], rtol=1e-5)


def test_the_launcher_of_mlx_starts_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    launcher = str(Path(sys.executable).with_name("mlx.launch"))
    words = [launcher, "-n", "2", "--backend", "ring", "--starting-port", port, "--env", "EAT_NUM_THREADS=1"]
    words += [str(PROGRAM), "lora-finetuning-mlx:train", "--iters", "2", "--output", str(tmp_path / "run")]
    done = run([*words, "--json"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["metrics"]["processes"] == 2


def test_the_command_line_speaks_once(tmp_path: Path) -> None:
    settings = ("--iters", "2", "--output", str(tmp_path / "run"), "--json")
    first, second = launch(tmp_path, str(PROGRAM), "lora-finetuning-mlx:train", *settings)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert json.loads(first[1])["metrics"]["processes"] == 2
    assert "2 processes, each with its share of 2 times the batch size" in first[2]
    assert second[1:] == ("", "")
