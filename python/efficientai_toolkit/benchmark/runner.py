"""Runs of suites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from efficientai_toolkit.benchmark.config import BenchmarkConfig
from efficientai_toolkit.benchmark.environment import capture_environment, find_change
from efficientai_toolkit.benchmark.result import Result, Run, result_from
from efficientai_toolkit.benchmark.store import DEFAULT, Store
from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.study.job import run_job

_GRACE_SECS = 10.0
"""Time for a process to end its command itself when that has run too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a run is doing."""

    done: int
    """Processes that have ended."""
    total: int
    case: str
    """Case that begins, or that ``result`` belongs to."""
    result: Result | None = None


Observer = Callable[[Progress], object]


def list_cases(suite: Suite | str, pattern: str | None = None) -> list[dict[str, Any]]:
    """Return descriptions of the cases of a suite, which is loaded in a process of its own.

    Parameters
    ----------
    suite
        Suite or its source.
    pattern
        Part of the name of a case, or a pattern with ``*`` and ``?``.

    Raises
    ------
    ConfigError
        If the suite cannot be loaded, or no case fits ``pattern``.
    """
    suite = as_suite(suite)
    job = run_job(
        "efficientai_toolkit.benchmark.worker:describe",
        {"source": suite.source, "arguments": dict(suite.arguments)},
    )
    if job.error is not None:
        named = job.error.startswith(suite.source)
        raise ConfigError(job.error if named else f"{suite.source}: cannot be loaded: {job.error}")
    cases: list[dict[str, Any]] = job.value
    chosen = [case for case in cases if pattern is None or matches(case["case"], pattern)]
    if not chosen:
        names = ", ".join(case["case"] for case in cases)
        message = f"{suite.source}: no case fits {pattern}; there are {names}"
        raise ConfigError(message)
    return chosen


def matches(name: str, pattern: str) -> bool:
    """Return whether ``pattern`` is part of a name or, with ``*`` or ``?``, fits it as a whole."""
    # Brackets surround parameters; they are no sets of characters.
    return pattern in name or fnmatchcase(name, pattern.replace("[", "[[]"))


def as_suite(suite: Suite | str) -> Suite:
    """Return a suite by its source."""
    return suite if isinstance(suite, Suite) else Suite(source=suite)


def measure_case(suite: Suite, case: dict[str, Any], config: BenchmarkConfig, process: int = 0) -> Result:
    """Measure a case in a new process; failures are results."""
    request = {
        "suite": {"source": suite.source, "arguments": dict(suite.arguments)},
        "case": case["case"],
        "config": config.to_dict(),
    }
    grace = _GRACE_SECS if case["kind"] == "command" else 0.0
    job = run_job("efficientai_toolkit.benchmark.worker:measure", request, timeout=config.timeout + grace)
    measured = job.value if job.error is None else {"status": "failed", "reason": job.error}
    return result_from(case, process, measured)


def run(
    suite: Suite | str,
    config: BenchmarkConfig | None = None,
    *,
    output: Path | str = DEFAULT,
    pattern: str | None = None,
    save_baseline: str | None = None,
    resume: bool = False,
    on_progress: Observer | None = None,
) -> Run:
    """Measure the cases of a suite and store every result at once.

    A case that fails is a result too, and the run goes on.

    Parameters
    ----------
    suite
        Suite, or a file, entry point or ``"module:function"``.
    config
        How to measure.
    output
        SQLite file to which the run is added.
    pattern
        Measure only cases whose names contain this or fit it, with ``*`` and ``?``.
    save_baseline
        Name of the finished run; an earlier run of this name loses it.
    resume
        Continue the last interrupted run of the suite: what is measured stays, failures are measured again.
    on_progress
        Called before and after each process.

    Returns
    -------
    Run

    Raises
    ------
    ConfigError
        If the suite cannot be loaded, or there is nothing to resume.
    ToolkitError
        If ``output`` is no file of results.
    """
    suite, config = as_suite(suite), config or BenchmarkConfig()
    _check_name(save_baseline)
    cases = list_cases(suite, pattern)
    store = Store(Path(output), create=True)
    environment = capture_environment(suite)
    settings = {**config.to_dict(), "filter": pattern}
    if resume:
        earlier = _find_earlier(store, suite, settings, environment)
        number, done = earlier.id, {(r.case, r.process) for r in earlier.results if r.status == "ok"}
    else:
        number, done = store.start(suite, settings, environment), set[tuple[str, int]]()
    work = [(case, process) for case, process in _order(cases, config.processes)]
    for place, (case, process) in enumerate(work):
        if (case["case"], process) in done:
            continue
        _tell(on_progress, place, len(work), case["case"])
        result = measure_case(suite, case, config, process)
        store.add(number, result)
        _tell(on_progress, place + 1, len(work), case["case"], result)
    store.finish(number, save_baseline)
    return store.load(number)


def _tell(observer: Observer | None, done: int, total: int, case: str, result: Result | None = None) -> None:
    if observer is not None:
        observer(Progress(done=done, total=total, case=case, result=result))


def _order(cases: Sequence[dict[str, Any]], processes: int) -> list[tuple[dict[str, Any], int]]:
    """Return the order of measurements: rounds of all cases, every second one backwards.

    A machine that slows down or heats up then hurts every case alike. What is measured once has one process.
    """
    ordered: list[tuple[dict[str, Any], int]] = []
    for process in range(processes):
        turn = [case for case in cases if process == 0 or case["kind"] != "measure"]
        ordered += [(case, process) for case in (turn if process % 2 == 0 else turn[::-1])]
    return ordered


def _check_name(name: str | None) -> None:
    if name is not None and (not name or name.isdecimal() or name == "latest"):
        message = f"a baseline cannot have the name {name!r}: numbers and `latest` mean other runs"
        raise ConfigError(message)


def _find_earlier(store: Store, suite: Suite, settings: dict[str, Any], environment: dict[str, Any]) -> Run:
    earlier = store.find_unfinished(suite)
    if earlier is None:
        message = f"{store.path}: no interrupted run of {suite.source} to resume"
        raise ConfigError(message)
    change = find_change(earlier.config, settings) or find_change(earlier.environment, environment)
    if change is not None:
        message = f"run {earlier.id} cannot be resumed, as {change}; start a new one without --resume"
        raise ConfigError(message)
    return earlier
