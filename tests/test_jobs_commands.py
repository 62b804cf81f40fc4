"""``jobs:*``: the jobs of a workspace from the command line."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.cli import main
from efficientai_toolkit.jobs import Jobs
from efficientai_toolkit.jobs.lock import RunnerLock
from support.workspace import TINY, write_rows

SETTINGS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "space")


def call(
    capsys: pytest.CaptureFixture[str], workspace: Path, *words: str, code: int = 0
) -> tuple[dict[str, Any], str]:
    """The JSON result and the messages of a command."""
    assert main([*words, "--workspace", str(workspace), "--json"]) == code
    captured = capsys.readouterr()
    result: dict[str, Any] = json.loads(captured.out)
    return result, captured.err


def test_a_job_from_the_command_line(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "more.yaml").write_text("iters: 99\nlora_rank: 4\n")
    config = ["--config", str(workspace / "more.yaml")]
    job, _ = call(capsys, workspace, "jobs:submit", "train", *config, *SETTINGS, "--set", "use-rslora=true")
    assert job["settings"] == TINY | {"lora_rank": 4, "use_rslora": True}
    urgent, _ = call(capsys, workspace, "jobs:submit", "evaluate", "--set", "limit=2", "--priority", "1")
    call(capsys, workspace, "jobs:submit", "train")
    assert call(capsys, workspace, "jobs:cancel", "3")[0]["state"] == "cancelled"

    done, err = call(capsys, workspace, "jobs:run")
    assert [found["id"] for found in done["jobs"]] == [urgent["id"], job["id"]]
    assert {found["state"] for found in done["jobs"]} == {"finished"}
    assert "loss" in err
    shown, err = call(capsys, workspace, "jobs:follow", str(job["id"]))
    assert shown == done["jobs"][1]
    assert "training" in err
    _, err = call(capsys, workspace, "jobs:follow", "1", "--after", "3", "--progress", "json")
    assert json.loads(err.splitlines()[0])["number"] == 4

    listed, _ = call(capsys, workspace, "jobs:list", "--state", "finished", "--kind", "train")
    assert [found["id"] for found in listed["jobs"]] == [job["id"]]
    assert main(["jobs:list", "--workspace", str(workspace)]) == 0
    assert "runs/train-0001" in capsys.readouterr().out
    assert call(capsys, workspace, "jobs:resume", "3")[0]["state"] == "queued"
    assert call(capsys, workspace, "jobs:delete", "1", "--files")[0]["deleted"]
    assert not (workspace / "runs" / "train-0001").exists()
    assert "train" in call(capsys, workspace, "jobs:list", "--kinds")[0]["kinds"]


def test_a_job_that_fails_says_why(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "data" / "rows.jsonl").write_text("no json\n")
    call(capsys, workspace, "jobs:submit", "train", *SETTINGS)
    done, _ = call(capsys, workspace, "jobs:run")
    assert "rows.jsonl" in done["jobs"][0]["error"]
    failed, _ = call(capsys, workspace, "jobs:follow", "1", code=2)
    assert failed["message"].startswith("job 1 failed: ")


def test_ctrl_c_keeps_the_checkpoint(workspace: Path) -> None:
    jobs = Jobs(workspace)
    job = jobs.submit("train", TINY | {"iters": 100_000, "save_every": 0})
    command = [sys.executable, "-m", "efficientai_toolkit", "jobs:run", "--workspace", str(workspace)]
    # Where the tests run in the background of a shell, it is ignored, and the process would inherit that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, previous)
    with process:
        try:
            while not jobs.store.count_events(job.id).get("step"):
                time.sleep(0.05)
            assert RunnerLock.is_held(jobs.workspace)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert jobs.get(job.id).state == "interrupted"
    assert list((workspace / job.output / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jobs:submit", "rm"], "`kind` must be one of train, "),
        (["jobs:submit", "train", "--set", "lr"], "--set must be NAME=VALUE, such as lr=1e-4, not 'lr'"),
        (["jobs:submit", "train", "--set", "data=../x"], "`data`: '../x' is not in the workspace"),
        (["jobs:submit", "train", "--set", "lr=fast"], "`lr` must be a number"),
        (["jobs:submit", "train", "--config", "/nowhere.yaml"], "cannot read the configuration"),
        (["jobs:submit", "train", "--priority", "5000"], "`priority` must be from -1000 to 1000, not 5000"),
        (["jobs:follow", "7"], "there is no job 7"),
        (["jobs:follow", "x"], "JOB must be the number of a job, not 'x'"),
        (["jobs:cancel", "0"], "there is no job 0"),
        (["jobs:resume", "-1"], "there is no job -1"),
        (["jobs:delete", str(2**70)], "there is no job 1180591620717411303"),
        (["jobs:list", "--state", "lost"], "--state"),
        (["jobs:run", "--max-jobs", "0"], "--max-jobs must be at least 1, not 0"),
        (["jobs:list", "--workspace", "/nowhere"], "there is no workspace /nowhere"),
    ],
)
def test_wrong_words(
    workspace: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [] if "--workspace" in words else ["--workspace", str(workspace)]
    assert main([*words, *own]) == 2
    assert message in capsys.readouterr().err
    assert not Jobs(workspace).list()


def test_one_runner_at_a_time(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = RunnerLock.acquire(Jobs(workspace).workspace)
    assert lock is not None
    try:
        assert main(["jobs:run", "--workspace", str(workspace)]) == 2
        assert "another process runs the jobs of" in capsys.readouterr().err
    finally:
        lock.release()
