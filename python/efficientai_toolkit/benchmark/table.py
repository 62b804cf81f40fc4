"""Results and verdicts as tables."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from efficientai_toolkit._base.display import shorten
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.benchmark.comparison import Comparison
from efficientai_toolkit.benchmark.result import Result, Run, list_metrics, pool
from efficientai_toolkit.benchmark.statistics import Spread, summarize
from efficientai_toolkit.benchmark.verdict import Verdict
from efficientai_toolkit.study.table import format_table

_SECONDS = "seconds"
_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A metric of a case over all its processes."""

    case: str
    metric: str
    spread: Spread
    processes: int
    throughput: float | None
    """Units per second at the median time."""
    unit: str
    relative: float | None
    """How many times worse than the best of its group the median is; 1 for the best."""
    memory: int | None
    """Largest peak of the processes in bytes, beyond that at the start."""
    mlx_memory: int | None


def summarize_run(run: Run) -> list[Row]:
    """Summarize the cases of a run that succeeded."""
    rows: list[tuple[Result, Row]] = []
    for case, results in run.cases().items():
        succeeded = [result for result in results if result.status == "ok"]
        rows += [(succeeded[0], _summarize(case, succeeded, metric)) for metric in list_metrics(succeeded)]
    return [_relate(result, row, rows) for result, row in rows]


def _summarize(case: str, results: Sequence[Result], metric: str) -> Row:
    spread = summarize(pool(results, metric))
    units = results[0].units
    return Row(
        case=case,
        metric=metric,
        spread=spread,
        processes=len(results),
        throughput=units / spread.median if units is not None and metric == _SECONDS else None,
        unit=results[0].unit,
        relative=None,
        memory=max((r.memory for r in results if r.memory is not None), default=None),
        mlx_memory=max((r.mlx_memory for r in results if r.mlx_memory is not None), default=None),
    )


def _relate(result: Result, row: Row, rows: Sequence[tuple[Result, Row]]) -> Row:
    """Add the ratio to the best of the group."""
    if result.group is None:
        return row
    medians = [
        other.spread.median
        for one, other in rows
        if one.group == result.group and other.metric == row.metric and other.spread.median > 0
    ]
    if row.spread.median <= 0:
        return row
    is_high = row.metric in result.higher_is_better
    relative = max(medians) / row.spread.median if is_high else row.spread.median / min(medians)
    return replace(row, relative=relative)


def list_problems(run: Run) -> dict[str, str]:
    """Return why cases failed, were skipped, or cannot be compared with those of their group."""
    problems = {
        result.case: f"{result.status}: {result.reason}" for result in run.results if result.status != "ok"
    }
    first: dict[str, Result] = {}
    for result in run.results:
        if result.status == "ok" and result.group is not None:
            different = _find_difference(first.setdefault(result.group, result), result)
            if different is not None:
                problems[result.case] = different
    return problems


def _find_difference(first: Result, result: Result) -> str | None:
    for name, tolerance in result.same.items():
        expected, found = (one.details.get(name, one.metrics.get(name)) for one in (first, result))
        if not _is_same(expected, found, tolerance):
            return f"differs: {name} is {shorten(found)}, not {shorten(expected)} as of {first.case}"
    return None


def _is_same(a: object, b: object, tolerance: float) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        pairs = zip(cast("list[object]", a), cast("list[object]", b), strict=False)
        return len(a) == len(b) and all(_is_same(x, y, tolerance) for x, y in pairs)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=tolerance)
    return a == b


def format_value(metric: str, value: float) -> str:
    """Format a value with four digits; times with their unit."""
    if metric != _SECONDS:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004
    scale, unit = next(((s, u) for s, u in _SCALES if value >= s), _SCALES[-1])
    return f"{value / scale:.4g} {unit}"


def _percent(row: Row) -> str:
    spread = row.spread
    return f"{(spread.q3 - spread.q1) / abs(spread.median):.1%}" if spread.median else "–"


def _prefixed(value: float) -> str:
    """Format a number with four digits and, from a million, a decimal prefix, before a unit."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:,.4g} {prefix}"
    return f"{format_value('', value)} "


def _size(size: int | None) -> str:
    return "–" if size is None else format_size(size)


COLUMNS: dict[str, Callable[[Row], str]] = {
    "case": lambda row: row.case,
    "metric": lambda row: "time" if row.metric == _SECONDS else row.metric,
    "median": lambda row: format_value(row.metric, row.spread.median),
    "IQR": _percent,
    "samples": lambda row: f"{row.spread.count}/{row.processes}",
    "speed": lambda row: "–" if row.throughput is None else f"{_prefixed(row.throughput)}{row.unit}/s",
    "relative": lambda row: "–" if row.relative is None else f"{row.relative:.2f}",
    "memory": lambda row: _size(row.memory),
    "MLX": lambda row: _size(row.mlx_memory),
}
"""Columns of the table of a run; samples are those of all processes / processes."""


def filled_columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Return the columns that are not empty."""
    return {title: cell for title, cell in COLUMNS.items() if any(cell(row) != "–" for row in rows)}


def format_run(run: Run) -> str:
    """Format a run as a table, with its problems below it."""
    rows = summarize_run(run)
    lines = [format_table(rows, filled_columns(rows))] if rows else []
    lines += [f"{case} {reason}" for case, reason in list_problems(run).items()]
    return "\n".join(lines)


def _interval(verdict: Verdict) -> str:
    if verdict.ratio is None:
        return "–"
    return f"{verdict.ratio:.3f} ({verdict.low:.3f}–{verdict.high:.3f})"


VERDICT_COLUMNS: dict[str, Callable[[Verdict], str]] = {
    "case": lambda verdict: verdict.case,
    "metric": lambda verdict: "time" if verdict.metric == _SECONDS else verdict.metric,
    "ratio (95 %)": _interval,
    "p": lambda verdict: "–" if verdict.p is None else f"{verdict.p:.2g}",
    "noise": lambda verdict: "–" if verdict.noise is None else f"{verdict.noise - 1:.1%}",
    "verdict": lambda verdict: verdict.answer,
}
"""Columns of the table of a comparison."""


def format_comparison(comparison: Comparison) -> str:
    """Format a comparison as a table, with what stands behind its verdicts."""
    lines = [f"{comparison.second} compared with {comparison.first}"]
    if comparison.verdicts:
        lines.append(format_table(comparison.verdicts, VERDICT_COLUMNS))
    lines += [f"{case} failed: {reason}" for case, reason in comparison.failed.items()]
    reasons = dict.fromkeys(f"{verdict.answer}: {verdict.reason}" for verdict in comparison.verdicts)
    lines += [*reasons, *([comparison.note] if comparison.note else [])]
    return "\n".join(lines)


def describe_result(result: Result) -> str:
    """Return a line about the result of a process."""
    if result.status != "ok":
        return f"{result.case}  {result.status}: {result.reason}"
    medians = [(metric, summarize(samples).median) for metric, samples in result.metrics.items()]
    values = [
        format_value(metric, value) if metric == _SECONDS else f"{metric} {format_value(metric, value)}"
        for metric, value in medians
    ]
    return f"{result.case}  {', '.join(values)}"
