"""The server is killed while jobs run and wait: nothing is lost, and results are the same bit for bit."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.jobs import Job, Jobs, Runner
from efficientai_toolkit.jobs.lock import RunnerLock
from support.workspace import TINY, write_rows

SETTINGS: dict[str, Any] = TINY | {"save_every": 10, "eval_every": 100}
DEADLINE_SECS = 60


@contextmanager
def serving(workspace: Path) -> Iterator[subprocess.Popen[str]]:
    words = ["serve", "--port", "0", "--quiet", "--workspace", str(workspace)]
    command = [sys.executable, "-m", "efficientai_toolkit", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Any) -> Any:
    until = time.monotonic() + DEADLINE_SECS
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def children(pid: int) -> list[int]:
    """The processes of the jobs of a server."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for task in tasks for child in task.read_text().split()]
    return [child for child in found if b"efficientai_toolkit.jobs.work" in _command(child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def count_steps(jobs: Jobs, number: int) -> int:
    return jobs.store.count_events(number).get("step", 0)


def adapter_of(jobs: Jobs, number: int) -> bytes:
    return (jobs.workspace.path / jobs.get(number).output / "adapters.safetensors").read_bytes()


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_killed_server_loses_nothing(tmp_path: Path, kills: int) -> None:
    # Enough steps for the first job to be running at every kill, and not to be resumed from its beginning.
    settings = SETTINGS | {"iters": 60 * kills}
    undisturbed = Jobs(write_rows(tmp_path / "undisturbed"))
    with Runner(undisturbed):
        for _ in undisturbed.events(undisturbed.submit("train", settings).id, follow=True):
            pass
    expected = adapter_of(undisturbed, 1)

    jobs = Jobs(write_rows(tmp_path / "space"))
    finished: list[Job] = []
    early = jobs.submit("train", TINY, priority=1).id
    first, *others = (jobs.submit("train", settings).id for _ in range(3))
    for kill in range(kills):
        with serving(jobs.workspace.path) as server:
            seen = count_steps(jobs, first)
            wait_until(lambda seen=seen: count_steps(jobs, first) > seen)
            workers = children(server.pid)
            server.send_signal(signal.SIGKILL)
            if kill % 2:
                # As when the power fails: the job cannot save anything.
                subprocess.run(["kill", "-9", *map(str, workers)], check=False)
            server.wait()
        assert len(workers) == 1
        # The job ends with its server.
        wait_until(lambda: not RunnerLock.is_held(jobs.workspace))
        assert not any(map(_command, workers))
        assert [jobs.get(number).state for number in (first, *others)] == ["running", "queued", "queued"]
        finished.append(jobs.get(early))
        assert finished[-1].state == "finished"
        assert finished[-1] == finished[0]
    with serving(jobs.workspace.path):
        for number in (first, *others):
            for _ in jobs.events(number, follow=True):
                pass
    for number in (first, *others):
        job = jobs.get(number)
        assert (job.state, job.error) == ("finished", None)
        assert adapter_of(jobs, number) == expected
        assert [event.number for event in jobs.events(number)] == list(range(1, job.events + 1))
    data = [event.data for event in jobs.events(first)]
    assert [event["state"] for event in data if event["event"] == "state"].count("interrupted") == kills
    resumed_from = [event["first_step"] for event in data if event["event"] == "started"]
    assert resumed_from == sorted(resumed_from)
    assert resumed_from[-1] > 0
