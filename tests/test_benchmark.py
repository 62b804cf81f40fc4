"""The benchmark runner: suites, runs, comparisons."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit import benchmark
from efficientai_toolkit.benchmark.config import BenchmarkConfig, ComparisonConfig
from efficientai_toolkit.benchmark.environment import find_change, find_revision
from efficientai_toolkit.benchmark.runner import Progress
from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.benchmark.timing import run_command, time_function
from efficientai_toolkit.exceptions import ConfigError, ToolkitError
from support.command import run as run_process

QUICK = BenchmarkConfig(repeats=2, min_time=0.0, warmup=0.0)
MEGABYTE = 1 << 20
SUITE = Path(__file__).parent / "support" / "benchmark_suite.py"


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "my_suite.py"
    path.write_text(SUITE.read_text())
    return str(path)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "results" / "r.sqlite"


def one(found: benchmark.Run, name: str) -> benchmark.Result:
    (result,) = (result for result in found.results if result.case.partition("[")[0] == name)
    return result


def test_a_run_measures_every_case_and_survives_those_that_fail(suite: str, output: Path) -> None:
    told: list[Progress] = []
    found = benchmark.run(suite, QUICK, output=output, on_progress=told.append)
    assert [result.status for result in found.results] == (
        ["ok"] * 4 + ["failed"] * 4 + ["skipped", "ok", "ok", "skipped", "failed", "failed"]
    )
    reasons = {result.case: result.reason for result in found.results if result.reason}
    assert reasons.pop("breaks") == "ValueError: no way (my_suite.py:13)"
    assert reasons.pop("exits").endswith("ended with code 1: gone wrong")
    assert reasons == {
        "dies": "its process was killed by signal 9, perhaps for lack of memory",
        "not-a-number": "the metric `perplexity` is nan",
        "nothing": "`measure` must return numbers by name, not {}",
        "absent": "No module named 'no_such_package'",
        "lacks": "not installed: torch",
        "unknown": "cannot run /no/such/program: No such file or directory",
    }
    assert "Traceback" in one(found, "breaks").details["traceback"]

    small, large = found.results[:2]
    assert small.memory is not None
    assert large.memory is not None
    # What the process held at its start is not counted.
    assert small.memory < 40 * MEGABYTE
    assert 80 * MEGABYTE < large.memory - small.memory < 120 * MEGABYTE
    assert large.case == "hold[megabytes=100]"
    assert len(large.metrics["seconds"]) >= 2
    assert large.number > 1
    assert one(found, "scores").metrics == {"perplexity": [12.5], "accuracy": [1.0]}
    assert one(found, "scores").higher_is_better == ["accuracy"]
    reports = one(found, "reports")
    assert (reports.metrics, reports.memory, reports.details) == ({"gflops": [3.5]}, 7, {"who": "me"})
    assert len(one(found, "program").metrics["seconds"]) == 2

    assert [(p.done, p.result is None) for p in told[:3]] == [(0, True), (1, False), (1, True)]
    assert (told[-1].done, told[-1].total) == (14, 14)
    assert found.finished is not None
    environment = found.environment
    assert {"mlx", "numpy", "python", "efficientai-toolkit"} <= set(environment["packages"])
    assert {"chip", "cores", "isa", "backend"} <= set(environment["hardware"])
    assert found.results[0].load_before is not None


def test_rounds_alternate_and_scores_are_measured_once(suite: str, output: Path) -> None:
    told: list[Progress] = []
    config = QUICK.with_values({"processes": 3})
    benchmark.run(suite, config, output=output, pattern="re", on_progress=told.append)
    order = [(p.result.case, p.result.process) for p in told if p.result is not None]
    assert order == [
        ("scores", 0), ("breaks", 0), ("reports", 0),
        ("reports", 1), ("breaks", 1),
        ("breaks", 2), ("reports", 2),
    ]  # fmt: skip


def test_an_interrupted_run_is_resumed(suite: str, output: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.result is not None and progress.done == 2:
            raise KeyboardInterrupt

    chosen = Suite(source=suite, arguments={"sizes": [1, 2, 3], "only": "hold"})
    with pytest.raises(ConfigError, match=r"r\.sqlite: no interrupted run of .*my_suite\.py to resume"):
        benchmark.run(chosen, QUICK, output=output, resume=True)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(chosen, QUICK, output=output, on_progress=stop)
    with pytest.raises(ConfigError, match=r"run 1 cannot be resumed, as repeats: 2 → 3; start a new one"):
        benchmark.run(chosen, QUICK.with_values({"repeats": 3}), output=output, resume=True)
    before = benchmark.Store(output).load(1)
    assert before.finished is None
    told: list[Progress] = []
    found = benchmark.run(chosen, QUICK, output=output, resume=True, on_progress=told.append)
    assert [p.done for p in told] == [2, 3]
    assert found.id == 1
    assert found.finished is not None
    assert found.results[:2] == before.results
    Path(suite).write_text(SUITE.read_text() + "\n# changed")
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(chosen, QUICK, output=output, on_progress=stop)
    Path(suite).write_text(SUITE.read_text())
    with pytest.raises(ConfigError, match=r"run 2 cannot be resumed, as suite: \w+ → \w+; start"):
        benchmark.run(chosen, QUICK, output=output, resume=True)


def test_a_case_that_takes_too_long_is_ended(tmp_path: Path, output: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text(
        "import time\nfrom efficientai_toolkit.benchmark import Case\n"
        "def cases():\n"
        "    yield Case(name='function', run=lambda: time.sleep(60))\n"
        "    yield Case(name='command', command=['sleep', '60'])\n"
    )
    start = time.monotonic()
    found = benchmark.run(str(path), QUICK.with_values({"timeout": 0.6}), output=output)
    assert time.monotonic() - start < 20
    assert [result.reason for result in found.results] == ["ran past 0.6 s", "sleep ran past 0.6 s"]


def test_sides_are_measured_in_turns(suite: str, output: Path) -> None:
    told: list[Progress] = []
    comparison = benchmark.compare(
        f"{suite}::add[a=1,b=x]",
        f"{suite}::program",
        ComparisonConfig(repeats=1, min_time=0.0, warmup=0.0, processes=8),
        output=output,
        on_progress=told.append,
    )
    order = "".join("AB"[p.result.case == "program"] for p in told if p.result is not None)
    assert order == "ABBAABBAABBAABBA"
    (verdict,) = comparison.verdicts
    assert (verdict.answer, verdict.metric, verdict.case) == ("slower", "seconds", "add[a=1,b=x] / program")
    first, second = benchmark.Store(output).runs()
    assert first.finished is not None
    assert [len(benchmark.Store(output).load(run.id).results) for run in (first, second)] == [8, 8]
    stored = benchmark.compare("run:1", "run:1", output=output)
    assert [v.answer for v in stored.verdicts] == ["cannot tell"]
    text = benchmark.format_comparison(comparison)
    assert "signed-rank test over 8 rounds" in text


def test_a_side_that_fails_is_named(suite: str, output: Path) -> None:
    comparison = benchmark.compare(suite, suite, QUICK, output=output, pattern="exits")
    assert comparison.verdicts == []
    assert comparison.failed["exits"].startswith(f"{suite}: ")
    assert "exits failed: " in benchmark.format_comparison(comparison)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("run:1", "{suite}", "a stored run can only be compared with a stored run"),
        ("run:7", "run:main", r"r\.sqlite: no such file; `efficientai-toolkit benchmark run` makes one"),
        ("{suite}::nought", "{suite}", r"my_suite\.py: has no case `nought`; there are hold"),
        ("{suite}", "command:true", "have no case in common; name one each as SUITE::CASE"),
        ("command:'", "command:true", "command:': No closing quotation"),
        ("command:", "command:true", "has a `command` that is no list of words"),
    ],
)
def test_bad_sides_are_refused(a: str, b: str, reason: str, suite: str, output: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        benchmark.compare(a.format(suite=suite), b.format(suite=suite), QUICK, output=output)


def test_a_baseline_is_compared_with(suite: str, output: Path) -> None:
    chosen = Suite(source=suite, arguments={"only": "add"})
    config = QUICK.with_values({"processes": 2})
    for _ in range(2):
        saved = benchmark.run(chosen, config, output=output, save_baseline="main")
        assert saved.name == "main"
    store = benchmark.Store(output)
    assert [run.name for run in store.runs()] == [None, "main"]
    comparison = benchmark.compare("run:main", "run:1", output=output)
    (verdict,) = comparison.verdicts
    assert (
        verdict.reason == "2 and 2 processes say too little about the noise between them; take --processes 5"
    )
    assert verdict.noise is not None
    assert comparison.note is None
    for name in ("", "12", "latest"):
        with pytest.raises(ConfigError, match="a baseline cannot have the name"):
            benchmark.run(chosen, config, output=output, save_baseline=name)


def test_mlx_arrays_are_evaluated_and_their_memory_is_counted(tmp_path: Path, output: Path) -> None:
    path = tmp_path / "lazy.py"
    path.write_text(
        "import mlx.core as mx\nfrom efficientai_toolkit.benchmark import Case\n"
        "def cases():\n"
        "    yield Case(name='ones', run=lambda: mx.ones(1 << 20))\n"
    )
    (result,) = benchmark.run(str(path), QUICK, output=output).results
    assert result.mlx_memory is not None
    assert 4 * MEGABYTE <= result.mlx_memory < 16 * MEGABYTE


def test_samples_of_short_calls_are_long_enough_for_the_clock() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    timing = time_function(call, BenchmarkConfig(repeats=3, min_time=0.0, warmup=0.0))
    assert len(timing.seconds) == 3
    assert timing.number > 100
    assert calls > 3 * timing.number
    timing = time_function(lambda: time.sleep(0.002), BenchmarkConfig(repeats=2, min_time=0.02, warmup=0.0))
    assert timing.number == 1
    assert len(timing.seconds) >= 5


def test_a_command_is_ended_with_its_runner() -> None:
    with pytest.raises(ToolkitError, match=r"^sleep ran past 0\.1 s$"):
        run_command(["sleep", "60"], 0.1)
    assert run_command(["sleep", "0.01"], 10.0).seconds >= 0.01
    assert run_command(["echo", "[1]"], 10.0).output is None
    assert run_command(["printf", r"\xff\n[["], 10.0).output is None
    assert run_command(["echo", '{"a": 1}'], 10.0).output == {"a": 1}


def test_changes_of_the_environment_are_found(tmp_path: Path) -> None:
    before = {"packages": {"mlx": "1", "numpy": "2"}, "revision": None}
    assert find_change(before, json.loads(json.dumps(before))) is None
    assert find_change(before, {**before, "packages": {"mlx": "1"}}) == "packages.numpy: 2 → None"
    assert find_revision(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    revision = find_revision(tmp_path)
    assert revision is not None
    assert len(revision) == 12
    (tmp_path / "file").touch()
    subprocess.run([*git, "add", "file"], check=True)
    assert find_revision(tmp_path) == f"{revision}+"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"repeats": 0}, "`repeats` must be from 1 to 10000, not 0"),
        ({"processes": 1001}, "`processes` must be from 1 to 1000, not 1001"),
        ({"min_time": -1.0}, "`min_time` must not be negative"),
        ({"timeout": 0.0}, "`timeout` must be above 0"),
        ({"repeat": 1}, "unknown key `repeat`; did you mean `repeats`"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        BenchmarkConfig(**settings)


@pytest.mark.alone
def test_ctrl_c_keeps_what_is_measured(tmp_path: Path, output: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text(
        "import time\nfrom efficientai_toolkit.benchmark import Case\n"
        "def cases():\n"
        "    yield Case(name='quick', measure=lambda: {'score': 1})\n"
        "    yield Case(name='slow', command=['sleep', '60'])\n"
    )
    words = [
        sys.executable,
        "-m",
        "efficientai_toolkit",
        "benchmark",
        "run",
        str(path),
        "--output",
        str(output),
    ]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("1/2  quick")
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=20)
    assert process.returncode == 130, text
    assert text.splitlines()[-1].startswith(
        f"interrupted: what is measured is saved in {output}; continue with"
    )
    assert text.rstrip().endswith("--resume`")
    left = run_process(["ps", "-o", "stat=,args=", "-g", str(process.pid)]).stdout.splitlines()
    # Who is dead and waits for its parent is no process that goes on.
    assert [line for line in left if not line.startswith("Z")] == []
    (result,) = benchmark.Store(output).load("latest").results
    assert result.metrics == {"score": [1.0]}
