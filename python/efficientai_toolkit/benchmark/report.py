"""Reports of a run: Markdown, JSON, CSV, and HTML in one file."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit._base.files import write_text
from efficientai_toolkit.benchmark.comparison import Comparison
from efficientai_toolkit.benchmark.drawing import Strip, draw_strips
from efficientai_toolkit.benchmark.page import html_page, html_pairs, html_table, markdown_table
from efficientai_toolkit.benchmark.result import Run, pool
from efficientai_toolkit.benchmark.table import (
    VERDICT_COLUMNS,
    Row,
    filled_columns,
    format_value,
    list_problems,
    summarize_run,
)
from efficientai_toolkit.exceptions import ConfigError


def write_report(path: Path | str, run: Run, comparison: Comparison | None = None) -> None:
    """Write a report in the format that the ending of the file names.

    Parameters
    ----------
    path
        File that ends with ``.md``, ``.json``, ``.csv`` or ``.html``.
    run
        Run with its results.
    comparison
        Comparison to include.

    Raises
    ------
    ConfigError
        If the ending is another one.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        message = f"{path}: a report ends with {', '.join(_FORMATS)}"
        raise ConfigError(message)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _FORMATS[path.suffix](run, comparison))


def to_markdown(run: Run, comparison: Comparison | None = None) -> str:
    """Return the report as Markdown."""
    rows = summarize_run(run)
    lines = [f"# {_title(run)}", "", *markdown_table(rows, filled_columns(rows)), ""]
    lines += [f"- `{case}` {reason}" for case, reason in list_problems(run).items()]
    if comparison is not None:
        lines += ["", f"## {comparison.second} compared with {comparison.first}", ""]
        lines += markdown_table(comparison.verdicts, VERDICT_COLUMNS)
        lines += [f"- `{case}` {reason}" for case, reason in comparison.failed.items()]
    lines += ["", "## Environment", ""]
    lines += [f"- {name}: {value}" for name, value in describe_run(run)]
    if details := list_details(run):
        lines += ["", "## Details"]
        for case, text in details.items():
            lines += ["", f"`{case}`", "```", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def to_json(run: Run, comparison: Comparison | None = None) -> str:
    """Return the run with every sample, its summary and the comparison as JSON."""
    return json.dumps(to_dict(run, comparison), indent=2, default=str) + "\n"


def to_dict(run: Run, comparison: Comparison | None = None) -> dict[str, Any]:
    """Return the content of the JSON report."""
    return {
        "run": asdict(run),
        "summary": [asdict(row) for row in summarize_run(run)],
        "comparison": None if comparison is None else asdict(comparison),
    }


def to_csv(run: Run, comparison: Comparison | None = None) -> str:  # noqa: ARG001
    """Return one line per case and metric, and per case that failed; a comparison has no place in it."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["case", "metric", "median", "q1", "q3", "mad", "samples", "processes", "throughput", "unit",
         "memory", "mlx_memory", "problem"]
    )  # fmt: skip
    for row in summarize_run(run):
        spread = row.spread
        table.writerow(
            [row.case, row.metric, spread.median, spread.q1, spread.q3, spread.mad, spread.count,
             row.processes, row.throughput, row.unit, row.memory, row.mlx_memory, ""]
        )  # fmt: skip
    for case, reason in list_problems(run).items():
        table.writerow([case, *[""] * 11, reason])
    return text.getvalue()


def to_html(run: Run, comparison: Comparison | None = None) -> str:
    """Return a page that needs no other file; plots are SVG within it."""
    rows = summarize_run(run)
    parts = [html_table(rows, filled_columns(rows))]
    parts += [f"<p>{escape(case)} {escape(reason)}</p>" for case, reason in list_problems(run).items()]
    if comparison is not None:
        parts.append(f"<h2>{escape(comparison.second)} compared with {escape(comparison.first)}</h2>")
        parts.append(html_table(comparison.verdicts, VERDICT_COLUMNS))
    parts += [_plot(run, metric, rows) for metric in dict.fromkeys(row.metric for row in rows)]
    parts += ["<h2>Environment</h2>", html_pairs(describe_run(run))]
    if details := list_details(run):
        parts += ["<h2>Details</h2>", html_pairs(details.items())]
    return html_page(_title(run), parts)


def _plot(run: Run, metric: str, rows: Sequence[Row]) -> str:
    cases = run.cases()
    strips = [
        Strip(
            label=row.case,
            samples=pool([result for result in cases[row.case] if result.status == "ok"], metric),
            median=row.spread.median,
            q1=row.spread.q1,
            q3=row.spread.q3,
        )
        for row in rows
        if row.metric == metric
    ]
    return draw_strips(strips, "time" if metric == "seconds" else metric, partial(format_value, metric))


def _title(run: Run) -> str:
    name = f", baseline {run.name}" if run.name else ""
    return f"{run.suite}: run {run.id}{name}"


def describe_run(run: Run) -> list[tuple[str, str]]:
    """Return where and how a run was measured as pairs of name and text."""
    environment = run.environment
    facts = [("started", run.started), ("finished", run.finished or "not yet")]
    groups = ("hardware", "packages", "threads")
    facts += [(name, _join(environment[name])) for name in groups if environment.get(name)]
    facts.append(("revision", str(environment.get("revision") or "–")))
    facts.append(("settings", _join(run.config)))
    loads = [x for result in run.results for x in (result.load_before, result.load_after) if x is not None]
    if loads:
        facts.append(("load average", f"{min(loads):.1f} to {max(loads):.1f}"))
    return facts


def list_details(run: Run) -> dict[str, str]:
    """Return what cases reported beside numbers, such as versions, and where they failed."""
    return {
        result.case: result.details.get("traceback") or json.dumps(result.details, ensure_ascii=False)
        for result in run.results
        if result.details
    }


def _join(pairs: Mapping[str, Any]) -> str:
    texts = [
        f"{name} {', '.join(cast('list[str]', value)) if isinstance(value, list) else value}"
        for name, value in pairs.items()
        if value is not None
    ]
    return ", ".join(texts)


_FORMATS = {".md": to_markdown, ".json": to_json, ".csv": to_csv, ".html": to_html}
"""Functions that make a report, by the ending of its file."""
