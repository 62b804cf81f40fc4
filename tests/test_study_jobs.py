"""A job of a study has a process of its own."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from efficientai_toolkit.study.job import run_job

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def jobs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def test_a_job_has_its_own_process_and_tells_events() -> None:
    events: list[dict[str, Any]] = []
    result = run_job("support.jobs:double", {"number": 2}, on_event=events.append)
    assert result.error is None
    assert result.value["twice"] == 4
    assert result.value["pid"] != os.getpid()
    assert events == [{"done": 1}, {"done": 2}]


def test_the_peak_of_memory_is_the_jobs_own() -> None:
    small, large = (run_job("support.jobs:hold", {"bytes": n * MEGABYTE}).peak_memory for n in (1, 101))
    assert small is not None
    assert large is not None
    assert 80 * MEGABYTE < large - small < 120 * MEGABYTE


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("refuse", "no way"),
        ("crash", "its process ended with code 1"),
        ("die", "its process was killed by signal 9, perhaps for lack of memory"),
        ("missing", "its process ended with code 1"),
    ],
)
def test_a_job_that_fails_says_why(function: str, reason: str) -> None:
    result = run_job(f"support.jobs:{function}", {})
    assert (result.value, result.error) == (None, reason)


def test_a_job_that_takes_too_long_is_killed() -> None:
    result = run_job("support.jobs:sleep", {"seconds": 60}, timeout=0.5)
    assert (result.value, result.error) == (None, "ran past 0.5 s")
    assert run_job("support.jobs:sleep", {"seconds": 0}, timeout=60).value == "awake"


def test_what_an_observer_raises_ends_the_job() -> None:
    def stop(event: dict[str, Any]) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run_job("support.jobs:double", {"number": 1000}, on_event=stop)


def test_what_a_job_prints_may_be_collected() -> None:
    lines: list[str] = []
    result = run_job("support.jobs:double", {"number": 2}, on_line=lines.append)
    assert result.value["twice"] == 4
    assert lines == ["not an event", "not an event"]


def test_an_interrupted_job_says_so() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_job(
            "support.jobs:sleep",
            {"seconds": 60},
            on_start=lambda process: Timer(1, process.send_signal, [signal.SIGINT]).start(),
        )


@pytest.mark.parametrize("ignored", [False, True])
def test_a_job_does_not_outlive_its_parent(tmp_path: Path, ignored: bool) -> None:
    """Also where Ctrl-C is ignored, as in the background of a shell."""
    source = (
        "import signal, sys; from efficientai_toolkit.study.job import run_job; "
        f"signal.signal(signal.SIGINT, signal.{'SIG_IGN' if ignored else 'default_int_handler'}); "
        "run_job('support.jobs:witness', {'file': sys.argv[1]})"
    )
    file = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", source, str(file)]) as parent:
        while not (file.exists() and file.read_text()):
            time.sleep(0.02)
        parent.kill()
    job = Path("/proc") / file.read_text()
    until = time.monotonic() + 20
    while job.exists() and "Z (zombie)" not in (job / "status").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    # It was interrupted, and could save what it had.
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    "executor",
    [ThreadPoolExecutor, lambda n: ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn"))],
    ids=["threads", "processes"],
)
def test_any_executor_takes_jobs(executor: Callable[[int], Executor]) -> None:
    with executor(2) as pool:
        futures = [pool.submit(run_job, "support.jobs:double", {"number": n}) for n in (1, 2)]
        assert [future.result().value["twice"] for future in futures] == [2, 4]
