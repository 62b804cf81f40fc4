"""Runs that cannot go on or cannot be written: what is said, and what is left on disk."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from efficientai_toolkit.exceptions import ToolkitError, TrainingError
from support import damage
from support.command import PROGRAM, python, train_command
from support.command import run as run_command
from support.engine import MODELS, Event, Run, tensors, train
from support.rows import random_ids, write_words

MODEL = MODELS / "llama_gqa"
EMBEDDING = "model.embed_tokens.weight"

# Every file a process writes may hold so many bytes: less than the adapter, more than the
# small files beside it. CPython ignores the signal, so writing fails as on a full disk.
FILE_LIMIT = 20_000
LIMITED = f"""
import json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_LIMIT}, {FILE_LIMIT}))
sys.path.insert(0, sys.argv[1])
from support.engine import train
model, data, output = map(Path, sys.argv[2:5])
try:
    train(model, data, output, **json.loads(sys.argv[5]))
except Exception as error:
    names = [kind.__name__ for kind in type(error).__mro__]
    print(json.dumps({{"classes": names, "message": str(error)}}))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_words(tmp_path / "data", random_ids(4, [12], seed=1))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_no_number(data: Path, tmp_path: Path, value: float) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    damage.tensor(EMBEDDING, lambda w: mx.full(w.shape, value))(model)
    with pytest.raises(TrainingError, match=r"(?i)nan|inf|finite"):
        train(model, data, tmp_path / "run", iters=2)
    assert not (tmp_path / "run" / "adapters.safetensors").exists()


def test_a_run_that_diverges_keeps_its_checkpoint(data: Path, tmp_path: Path) -> None:
    """Steps of a size that overflows: the error names the step, the checkpoint before it stays whole."""
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"at step \d+ of 50; the checkpoint of step \d+ is intact\."):
        train(MODEL, data, run.output, None, run, iters=50, lr=1e30, save_every=1)
    assert all(math.isfinite(loss) for loss in run.losses.values())
    for checkpoint in (run.output / "checkpoints").glob("step-*"):
        for file in checkpoint.rglob("*.safetensors"):
            tensors(file)


def test_a_run_that_diverges_before_its_first_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"; there is no checkpoint yet\. Try a lower lr"):
        train(MODEL, data, tmp_path / "run", iters=50, lr=1e30)


KILLED = f"""
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from support.engine import train
train(Path({str(MODEL)!r}), Path(sys.argv[2]), Path(sys.argv[3]), lambda run, event: os._exit(9), iters=2)
"""


def kill(data: Path, output: Path) -> None:
    """A run that dies at its first event."""
    killed = python(KILLED, str(Path(__file__).parent), str(data), str(output))
    assert killed.returncode == 9, killed.stderr


@pytest.mark.parametrize("resume", [False, True], ids=["plain", "resume"])
def test_a_run_killed_before_its_first_checkpoint(data: Path, tmp_path: Path, resume: bool) -> None:
    """Either way it starts from the beginning, and nothing is left of what was being written."""
    output = tmp_path / "run"
    kill(data, output)
    unfinished = ["checkpoints/.step-0000001.efficientai-tmp", ".adapters.safetensors.efficientai-tmp"]
    for name in unfinished:
        (output / name).mkdir(parents=True)
    (output / ".notes.tmp").touch()
    run = train(MODEL, data, output, iters=2, resume=resume)
    assert (run.report["steps"], run.report["resumed_from"]) == (2, 0)
    assert not [name for name in unfinished if (output / name).exists()]
    # Whose name is not ours stays.
    assert (output / ".notes.tmp").exists()
    with pytest.raises(TrainingError, match=r"there is no run to resume: .* start it without --resume"):
        train(MODEL, data, output, iters=2, resume=True)


def test_an_unfinished_run_names_the_options(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    (output / "checkpoints/step-0000001").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"continue it with --resume .*, or replace it with --overwrite"):
        train(MODEL, data, output, iters=2)


def test_output_below_a_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises((ToolkitError, OSError), match="file"):
        train(MODEL, data, tmp_path / "file" / "run", iters=1)
    assert (tmp_path / "file").read_text() == "kept"


def test_output_is_a_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("kept")
    with pytest.raises((ToolkitError, OSError), match="taken"):
        train(MODEL, data, tmp_path / "taken", iters=1, overwrite=True)
    assert (tmp_path / "taken").read_text() == "kept"


@pytest.mark.parametrize("save_every", [0, 1], ids=["at the end", "at a checkpoint"])
def test_no_space_left(data: Path, tmp_path: Path, save_every: int) -> None:
    settings = json.dumps({"iters": 2, "save_every": save_every})
    folder = Path(__file__).parent
    output = tmp_path / "run"
    done = python(LIMITED, str(folder), str(MODEL), str(data), str(output), settings)
    assert done.returncode == 0, done.stderr
    error = json.loads(done.stdout.splitlines()[-1])
    assert {"ToolkitError", "OSError"} & set(error["classes"])
    assert str(output) in error["message"]
    # Nothing at all, finished or not.
    assert not output.exists()
    finished = train(MODEL, data, output, iters=2, overwrite=True)
    assert finished.report["steps"] == 2


def test_a_finished_run_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    run = train(MODEL, data, tmp_path / "run", iters=2)
    before = files_in(run.output)
    with pytest.raises(TrainingError, match="overwrite") as error:
        train(MODEL, data, run.output, iters=1)
    assert str(run.output) in str(error.value)
    assert files_in(run.output) == before
    again = train(MODEL, data, run.output, iters=1, overwrite=True)
    assert again.report["steps"] == 1


def test_a_folder_of_other_files_is_left_alone(data: Path, tmp_path: Path) -> None:
    """Overwriting means runs: what a user keeps beside them stays."""
    output = tmp_path / "home"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    with suppress(ToolkitError):
        train(MODEL, data, output, iters=1, overwrite=True)
    assert (output / "thesis.tex").read_text() == "years of work"


def test_the_output_of_a_running_run_is_locked(data: Path, tmp_path: Path) -> None:
    """Against another process, not only against a second call in this one."""
    output = tmp_path / "run"
    second: list[tuple[int, str]] = []

    def start_another(_: Run, event: Event) -> None:
        if event["event"] == "step" and not second:
            words = train_command(
                model_path=MODEL, data=data, output=output, iters=1, dtype="float32", overwrite=True
            )
            done = run_command(words)
            second.append((done.returncode, done.stderr))

    run = train(MODEL, data, output, start_another, iters=2)
    [(code, errors)] = second
    assert code == 2, errors
    assert str(output) in errors
    assert "Traceback" not in errors
    assert run.report["steps"] == 2
    # It was released at the end.
    train(MODEL, data, output, iters=1, overwrite=True)


def test_a_lock_left_by_a_killed_run_does_not_stop_the_next(data: Path, tmp_path: Path) -> None:
    kill(data, tmp_path / "run")
    run = train(MODEL, data, tmp_path / "run", iters=1, overwrite=True)
    assert run.report["steps"] == 1


def test_the_model_itself_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    before = files_in(model)
    for overwrite in (False, True):
        with pytest.raises(ToolkitError, match="output"):
            train(model, data, model, iters=1, method="full", overwrite=overwrite)
    # Nor another model that happens to lie there.
    with pytest.raises(TrainingError, match="overwrite"):
        train(MODEL, data, model, iters=1, method="full")
    assert {name: text for name, text in files_in(model).items() if name != ".lock"} == before


def test_overwriting_leaves_nothing_of_the_run_before(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train(MODEL, data, output, iters=1)
    train(MODEL, data, output, iters=1, method="full", overwrite=True)
    assert not (output / "adapters.safetensors").exists()
    assert (output / "model.safetensors").exists()


def test_resuming_where_nothing_was_started(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="resume") as error:
        train(MODEL, data, tmp_path / "run", iters=1, resume=True)
    assert str(tmp_path / "run") in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["adapters.safetensors", "adapter_config.json", "training.json",
     ".training.json.efficientai-tmp", ".adapters.safetensors.efficientai-tmp"],
)  # fmt: skip
def test_links_in_the_output_are_replaced_and_not_followed(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("years of work")
    output = tmp_path / "run"
    output.mkdir()
    (output / name).symlink_to("../precious")
    run = train(MODEL, data, output, iters=1, overwrite=True)
    assert run.adapter
    assert not [path for path in output.rglob("*") if path.is_symlink()]
    assert (tmp_path / "precious").read_text() == "years of work"


@pytest.mark.parametrize("name", [".lock", "checkpoints"])
def test_links_that_cannot_be_replaced_are_named(data: Path, tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    if name == ".lock":
        precious.write_text("years of work")
    else:
        (precious / "step-0000001").mkdir(parents=True)
    before = files_in(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(precious)
    ways: list[dict[str, Any]] = [{}, {"resume": True}, {"overwrite": True}]
    for settings in ways:
        with pytest.raises(
            ToolkitError, match=rf"{name}: it is a .*link.*remove it or choose another output"
        ):
            train(MODEL, data, tmp_path / "run", iters=1, save_every=1, **settings)
    (tmp_path / "run" / name).unlink()
    assert files_in(tmp_path) == before
    assert precious.exists()


def test_the_output_may_be_a_link(data: Path, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "run").symlink_to("large disk")
    assert train(MODEL, data, tmp_path / "run", iters=2, save_every=1).adapter
    assert (tmp_path / "large disk" / "adapters.safetensors").is_file()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_files_have_the_permissions_that_the_umask_gives(data: Path, tmp_path: Path, method: str) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    for file in model.iterdir():
        # As those of a shared cache, which nobody may write.
        file.chmod(0o444)
    previous = os.umask(0o027)
    try:
        train(model, data, tmp_path / "run", iters=1, save_every=1, method=method)
    finally:
        os.umask(previous)
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*") if path.is_file()
    }
    assert set(modes.values()) == {0o640}, modes


@pytest.mark.parametrize("at", [1, 3])
def test_an_output_that_is_removed_during_the_run_is_made_again(data: Path, tmp_path: Path, at: int) -> None:
    output = tmp_path / "runs" / "one"

    def remove(_: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == at:
            shutil.rmtree(tmp_path / "runs")

    run = train(MODEL, data, output, remove, iters=3, save_every=2)
    assert run.adapter
    assert json.loads((output / "training.json").read_text())["report"]["steps"] == 3


def test_nothing_is_left_of_a_run_that_never_began(data: Path, tmp_path: Path) -> None:
    for output in (tmp_path / "a" / "b", tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(ToolkitError, match="nope"):
            train(MODEL, data, output, iters=1, target_modules=["nope"])
    assert not (tmp_path / "a").exists()
    # A folder of somebody else's stays, without a lock.
    assert not list((tmp_path / "there").iterdir())


def test_runs_without_an_output_that_start_together(data: Path, tmp_path: Path) -> None:
    words = train_command(model_path=MODEL, data=data, iters=1, dtype="float32", max_seq_length=64)
    fail = [*words, "--target-modules", "nope"]
    started = [
        subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in (words, fail, words, fail, words)
    ]
    ended = [(process.communicate(timeout=100)[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 2, 0, 2, 0], ended
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 3, runs
    assert all((run / "adapters.safetensors").is_file() for run in runs)


@pytest.mark.parametrize("command", ["train", "validate", "analyze", "optimize"])
def test_a_command_that_fails_leaves_no_runs(command: str, tmp_path: Path) -> None:
    words = [
        str(PROGRAM),
        f"lora-finetuning-mlx:{command}",
        "--model-path",
        str(tmp_path / "none"),
        "--quiet",
    ]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert ended.returncode == 2, ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_nobody_needs_to_read_the_output(closed: str, tmp_path: Path) -> None:
    words = train_command(output=tmp_path / "out", iters=1, max_seq_length=64, eval_batches=1)
    words[words.index("silent")] = "bar"
    outcome = subprocess.run(
        ["sh", "-c", f"{shlex.join(words)} {closed}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (outcome.returncode, outcome.stderr.count("Traceback")) == (0, 0), outcome.stderr
    assert (tmp_path / "out" / "adapters.safetensors").is_file()
