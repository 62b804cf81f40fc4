"""Jobs: queued in a workspace, run one after the other, followed, stopped and continued."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.jobs import Job, JobNotFoundError, Jobs, JobStateError, Runner
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
