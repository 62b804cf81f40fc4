"""Comparisons: two sides measured in turns, or two stored runs."""

import shlex
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.benchmark.config import BenchmarkConfig, ComparisonConfig
from efficientai_toolkit.benchmark.environment import capture_environment, find_change
from efficientai_toolkit.benchmark.result import Result, Run, list_metrics
from efficientai_toolkit.benchmark.runner import Observer, Progress, list_cases, matches, measure_case
from efficientai_toolkit.benchmark.store import DEFAULT, Store
from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.benchmark.verdict import Verdict, judge_pairs, judge_stored
from efficientai_toolkit.exceptions import ConfigError

_RUN = "run:"
_COMMAND = "command:"
_CASE = "::"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Comparison(Displayed):
    """Result of a comparison; verdicts tell how the second side compares with the first."""

    first: str
    second: str
    verdicts: list[Verdict]
    failed: dict[str, str]
    """Why cases could not be compared."""
    note: str | None = None
    """In what the environments of stored runs differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    """A suite, and the case in it if there is one to choose."""

    text: str
    suite: Suite
    case: str | None

    @classmethod
    def parse(cls, text: str, arguments: Mapping[str, Any]) -> "_Side":
        if text.startswith(_COMMAND):
            try:
                words = shlex.split(text.removeprefix(_COMMAND))
            except ValueError as error:
                message = f"{text}: {error}"
                raise ConfigError(message) from error
            source = "efficientai_toolkit.benchmark.commands:cases"
            return cls(text=text, suite=Suite(source=source, arguments={"command": words}), case=None)
        source, _, case = text.partition(_CASE)
        return cls(text=text, suite=Suite(source=source, arguments=arguments), case=case or None)


def compare(
    a: str,
    b: str,
    config: BenchmarkConfig | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    output: Path | str = DEFAULT,
    pattern: str | None = None,
    on_progress: Observer | None = None,
) -> Comparison:
    """Compare two sides, by default in ten rounds of alternating order.

    Parameters
    ----------
    a, b
        Sides to measure: a suite (cases of the same name are compared), ``"SUITE::CASE"``, or
        ``"command:WORDS"``; or two stored runs, ``"run:ID"`` or ``"run:BASELINE"``, of which the first one is
        the baseline.
    config
        How to measure; ``processes`` is the number of rounds.
    arguments
        Keyword arguments of the suites.
    output
        SQLite file; what is measured is added as two runs.
    pattern
        Compare only cases whose names contain this or fit it.
    on_progress
        Called before and after each process.

    Returns
    -------
    Comparison

    Raises
    ------
    ConfigError
        If a side cannot be found, or the sides have no case in common.
    ToolkitError
        If ``output`` is no file of results.
    """
    stored = [side.startswith(_RUN) for side in (a, b)]
    if all(stored):
        store = Store(Path(output))
        first, second = (store.load(side.removeprefix(_RUN)) for side in (a, b))
        return compare_runs(first, second, pattern=pattern)
    if any(stored):
        message = f"{a} and {b}: a stored run can only be compared with a stored run"
        raise ConfigError(message)
    sides = [_Side.parse(side, arguments or {}) for side in (a, b)]
    return _compare_live(sides, config or ComparisonConfig(), Path(output), pattern, on_progress)


def compare_runs(baseline: Run, run: Run, *, pattern: str | None = None) -> Comparison:
    """Compare a stored run with a baseline: the medians of processes, beyond the noise of the baseline.

    Raises
    ------
    ConfigError
        If the runs have no case in common.
    """
    before, after = baseline.cases(), run.cases()
    names = [name for name in before if name in after and (pattern is None or matches(name, pattern))]
    if not names:
        message = f"the runs {baseline.id} and {run.id} have no case in common"
        raise ConfigError(message)
    verdicts: list[Verdict] = []
    failed: dict[str, str] = {}
    for name in names:
        old, new = (_succeeded(results) for results in (before[name], after[name]))
        if not old or not new:
            failed[name] = _first_reason([*before[name], *after[name]])
            continue
        verdicts += [
            judge_stored(
                name,
                metric,
                [result.metrics[metric] for result in old if metric in result.metrics],
                [result.metrics[metric] for result in new if metric in result.metrics],
                higher_is_better=metric in new[0].higher_is_better,
            )
            for metric in list_metrics(old)
            if metric in list_metrics(new)
        ]
    comparable = [
        {key: value for key, value in one.environment.items() if key not in {"revision", "suite"}}
        for one in (baseline, run)
    ]
    change = find_change(*comparable)
    return Comparison(
        first=f"run {baseline.name or baseline.id}",
        second=f"run {run.name or run.id}",
        verdicts=verdicts,
        failed=failed,
        note=change and f"the environments differ: {change}",
    )


def _succeeded(results: list[Result]) -> list[Result]:
    return [result for result in results if result.status == "ok"]


def _first_reason(results: list[Result]) -> str:
    return next((result.reason for result in results if result.reason), "not measured")


def _compare_live(
    sides: list[_Side],
    config: BenchmarkConfig,
    output: Path,
    pattern: str | None,
    on_progress: Observer | None,
) -> Comparison:
    pairs = _match(sides, pattern)
    store = Store(output, create=True)
    runs = [store.start(side.suite, asdict(config), capture_environment(side.suite)) for side in sides]
    verdicts: list[Verdict] = []
    failed: dict[str, str] = {}
    try:
        for place, (name, cases) in enumerate(pairs.items()):
            measured: tuple[list[Result], list[Result]] = ([], [])
            for turn in range(2 * config.processes):
                done, total = place * 2 * config.processes + turn, 2 * config.processes * len(pairs)
                # A B, B A, A B, …
                index = (turn + turn // 2) % 2
                side = sides[index]
                if on_progress is not None:
                    on_progress(Progress(done=done, total=total, case=f"{name}, {side.text}"))
                result = measure_case(side.suite, cases[index], config, turn // 2)
                store.add(runs[index], result)
                if on_progress is not None:
                    on_progress(Progress(done=done + 1, total=total, case=result.case, result=result))
                if result.status != "ok":
                    failed[name] = f"{side.text}: {result.reason}"
                    break
                measured[index].append(result)
            else:
                verdicts += _judge(name, *measured)
    finally:
        # Half a comparison is no run to resume.
        for run in runs:
            store.finish(run, None)
    return Comparison(first=sides[0].text, second=sides[1].text, verdicts=verdicts, failed=failed)


def _judge(name: str, a: list[Result], b: list[Result]) -> list[Verdict]:
    metrics = [metric for metric in list_metrics(a[:1]) if metric in b[0].metrics]
    return [
        judge_pairs(
            name,
            metric,
            *([statistics.median(result.metrics[metric]) for result in side] for side in (a, b)),
            higher_is_better=metric in b[0].higher_is_better,
        )
        for metric in metrics
    ]


def _match(sides: list[_Side], pattern: str | None) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return the cases of both sides by the name of the pair."""
    first, second = ({case["case"]: case for case in list_cases(side.suite)} for side in sides)
    for side, cases in zip(sides, (first, second), strict=True):
        if side.case is not None and side.case not in cases:
            message = f"{side.suite.source}: has no case `{side.case}`; there are {', '.join(cases)}"
            raise ConfigError(message)
    one, other = (side.case for side in sides)
    if one is not None and other is not None:
        name = one if one == other else f"{one} / {other}"
        return {name: (first[one], second[other])}
    names = [name for name in first if name in second and name == (one or other or name)]
    names = [name for name in names if pattern is None or matches(name, pattern)]
    if not names:
        message = f"{sides[0].text} and {sides[1].text} have no case in common; name one each as SUITE::CASE"
        raise ConfigError(message)
    return {name: (first[name], second[name]) for name in names}
