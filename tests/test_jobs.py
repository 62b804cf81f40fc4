"""Jobs: queued in a workspace, run one after the other, followed, stopped and continued."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.jobs import Job, JobNotFoundError, Jobs, JobStateError, Runner
from efficientai_toolkit.jobs.recorder import KEPT, Recorder
from support.workspace import TINY, write_rows


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(write_rows(tmp_path / "space"))


@pytest.fixture
def running(jobs: Jobs) -> Iterator[Jobs]:
    with Runner(jobs):
        yield jobs


def wait(jobs: Jobs, job: Job) -> Job:
    for _ in jobs.events(job.id, follow=True):
        pass
    return jobs.get(job.id)


def wait_for_steps(jobs: Jobs, job: Job) -> None:
    while not jobs.store.count_events(job.id).get("step"):
        assert not jobs.get(job.id).has_ended
        time.sleep(0.02)


def is_worker(process: Path, parent: int) -> bool:
    """Whether a process in ``/proc`` runs a job of ``parent``."""
    with suppress(OSError):
        is_child = f"\nPPid:\t{parent}\n" in (process / "status").read_text()
        return is_child and b"efficientai_toolkit.jobs.work" in (process / "cmdline").read_bytes()
    return False


def states(jobs: Jobs, job: Job) -> list[str]:
    return [event.data["state"] for event in jobs.events(job.id) if event.data["event"] == "state"]


def test_a_training_tells_all_and_ends(running: Jobs) -> None:
    job = wait(running, running.submit("train", TINY))
    assert (job.state, job.error, job.output) == ("finished", None, "runs/train-0001")
    assert job.result is not None
    assert job.result["adapter_path"] == "runs/train-0001"
    assert (running.workspace.path / job.output / "adapters.safetensors").is_file()
    events = list(running.events(job.id))
    assert [event.number for event in events] == list(range(1, job.events + 1))
    steps = [event.data for event in events if event.data["event"] == "step"]
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {"epoch", "loss", "lr", "peak_memory", "tokens_per_second", "seconds_left"} <= steps[0].keys()
    assert steps[-1]["seconds_left"] == 0
    assert states(running, job) == ["queued", "running", "finished"]
    assert list(running.events(job.id, after=job.events - 1)) == events[-1:]


def test_the_queue_has_an_order(jobs: Jobs) -> None:
    first, second, urgent = (jobs.submit("train", TINY, priority=p).id for p in (0, 0, 1))
    taken = [jobs.store.take_next() for _ in range(4)]
    assert [job and job.id for job in taken] == [urgent, first, second, None]
    assert [job.id for job in jobs.list()] == [urgent, second, first]
    assert [job.id for job in jobs.list(states=["running"], kind="train", limit=1)] == [urgent]


def test_what_cannot_be_done_is_told(jobs: Jobs) -> None:
    with pytest.raises(JobNotFoundError, match="there is no job 7"):
        jobs.get(7)
    job = jobs.submit("train", TINY)
    with pytest.raises(JobStateError, match="job 1 is queued; only cancelled and failed jobs are resumed"):
        jobs.resume(job.id)
    assert jobs.cancel(job.id).state == "cancelled"
    with pytest.raises(JobStateError, match="job 1 has ended: it is cancelled"):
        jobs.cancel(job.id)
    assert jobs.resume(job.id).state == "queued"
    jobs.delete(job.id)
    assert jobs.submit("train", TINY).id == 2
    with pytest.raises(ConfigError, match=r"`kind` must be one of train.*, not .rm."):
        jobs.submit("rm")


def test_a_cancelled_job_continues_to_the_same_result(running: Jobs) -> None:
    settings = TINY | {"iters": 150, "save_every": 0}
    whole = wait(running, running.submit("train", settings))
    part = running.submit("train", settings)
    wait_for_steps(running, part)
    running.cancel(part.id)
    part = wait(running, part)
    assert (part.state, part.error) == ("cancelled", None)
    assert part.ended is not None
    running.resume(part.id)
    part = wait(running, part)
    assert part.state == "finished"
    assert states(running, part) == ["queued", "running", "cancelled", "queued", "running", "finished"]
    data = [event.data for event in running.events(part.id)]
    first_steps = [event["first_step"] for event in data if event["event"] == "started"]
    assert first_steps[0] == 0 < first_steps[1]
    adapters = [(running.workspace.path / job.output / "adapters.safetensors") for job in (whole, part)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_a_crash_of_a_job_leaves_the_others(running: Jobs) -> None:
    job = running.submit("train", TINY | {"iters": 100_000})
    wait_for_steps(running, job)
    found = [int(pid.name) for pid in Path("/proc").glob("[0-9]*") if is_worker(pid, os.getpid())]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)
    failed = wait(running, job)
    assert failed.state == "failed"
    assert failed.error == "its process was killed by signal 9, perhaps for lack of memory"
    assert wait(running, running.submit("train", TINY)).state == "finished"


def test_another_runner_takes_over(jobs: Jobs) -> None:
    job = jobs.submit("train", TINY | {"iters": 400, "save_every": 0})
    first, second = Runner(jobs), Runner(Jobs(jobs.workspace))
    with second:
        with first:
            if not second.is_active:
                wait_for_steps(jobs, job)
        assert wait(jobs, job).state == "finished"


def test_jobs_run_side_by_side_if_told(jobs: Jobs) -> None:
    both = [jobs.submit("train", TINY | {"iters": 100_000}) for _ in range(2)]
    with Runner(jobs, max_running=2):
        for job in both:
            wait_for_steps(jobs, job)
        assert [job.state for job in jobs.list()] == ["running", "running"]
    assert [job.state for job in jobs.list()] == ["interrupted", "interrupted"]


def test_very_many_events_are_thinned() -> None:
    written: list[dict[str, Any]] = []
    recorder = Recorder(lambda events: written.extend(map(dict, events)), {})
    total = 10 * KEPT
    for step in range(1, total + 1):
        recorder.add({"event": "step", "step": step, "steps": total})
    recorder.add({"event": "finished", "step": total})
    steps = [event["step"] for event in written if event["event"] == "step"]
    assert steps[:KEPT] == list(range(1, KEPT + 1))
    assert steps == sorted(set(steps))
    assert steps[-1] == total
    assert len(steps) < 4.5 * KEPT
    assert written[-1]["event"] == "finished"


def test_lines_of_a_log_are_bounded() -> None:
    written: list[dict[str, Any]] = []
    recorder = Recorder(lambda events: written.extend(map(dict, events)), {})
    for line in ("", "  ", "x" * 5000, "warning"):
        recorder.add_line(line)
    recorder.flush()
    assert [len(event["line"]) for event in written] == [1000, 7]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("evaluate", {"model_path": "embedded", "limit": 2, "metrics": ["perplexity"]}),
        ("quantize", {"technique": "rtn"}),
        ("export", {"type": "q8_0"}),
        ("export", {"format": "safetensors", "calibration": None}),
        pytest.param("select", {"data": "data/rows.jsonl", "fraction": 0.5}, marks=pytest.mark.slow),
        pytest.param("optimize", TINY | {"trials": 2}, marks=pytest.mark.slow),
        pytest.param("compare", TINY | {"methods": ["lora", "dora"]}, marks=pytest.mark.slow),
        pytest.param(
            "analyze", TINY | {"batches": 2, "steps": 2, "width": 8, "max_rank": 4}, marks=pytest.mark.slow
        ),
        pytest.param(
            "benchmark",
            {"techniques": ["rtn"], "sequences": 2, "length": 32, "repeats": 1, "generated_tokens": 4},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_kind_runs(running: Jobs, kind: str, settings: dict[str, Any]) -> None:
    rows = [f'{{"text": "To be or not to be, {number} times"}}\n' for number in range(40)]
    (running.workspace.data / "rows.jsonl").write_text("".join(rows))
    job = wait(running, running.submit(kind, settings))
    assert (job.state, job.error) == ("finished", None)
    assert job.result
    assert (running.workspace.path / job.output).is_dir()
    assert str(running.workspace.path) not in str(job.result)
