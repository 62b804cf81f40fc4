"""Parts of the page as HTML; every text from outside is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from efficientai_toolkit._base.units import format_duration
from efficientai_toolkit.jobs.job import Job
from efficientai_toolkit.ui.monitor import View

_SHOWN = 1200
"""Characters of a part of a row."""

_STATES = {
    "queued": "waiting",
    "running": "running",
    "finished": "finished",
    "failed": "failed",
    "cancelled": "stopped",
    "interrupted": "interrupted",
}


def empty(title: str, hint: str) -> str:
    """Say that there is nothing yet, and what to do."""
    return f'<div class="eat-empty"><b>{escape(title)}</b>{escape(hint)}</div>'


def error(text: str) -> str:
    """Show what went wrong."""
    return f'<div class="eat-error" role="alert">{escape(text)}</div>'


def note(text: str) -> str:
    """Say something in passing."""
    return f'<p class="eat-note">{escape(text)}</p>'


def title(text: str) -> str:
    """Show a heading within a part."""
    return f'<div class="eat-title">{escape(text)}</div>'


def cards(values: Iterable[tuple[str, str]]) -> str:
    """Show figures with their names."""
    shown = "".join(
        f'<div class="eat-card"><span>{escape(name)}</span><b>{escape(value)}</b></div>'
        for name, value in values
    )
    return f'<div class="eat-cards">{shown}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Show a table that scrolls by itself where it is too wide."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="eat-table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def progress(job: Job, view: View, *, name: str) -> str:
    """Show the state of a job, and how far it is."""
    parts = [
        f'<span class="eat-badge {job.state}">{_STATES[job.state]}</span>',
        f"<span>{escape(name)}</span>",
    ]
    if view.total and job.state == "running":
        unit = "step" if not view.stage else view.stage
        if unit != "download":
            parts.append(f"<span>{escape(unit)} {view.done:,} of {view.total:,}</span>")
        if view.seconds_left is not None:
            parts.append(f"<span>{format_duration(view.seconds_left)} left</span>")
    share = min(view.done / view.total, 1) if view.total else 0.0
    bar = "" if job.has_ended else f'<div class="eat-bar"><div style="width:{100 * share:.1f}%"></div></div>'
    failure = error(job.error) if job.error else ""
    return f'<div class="eat-state">{"".join(parts)}</div>{bar}{failure}'


def histogram(bars: Sequence[Mapping[str, int]]) -> str:
    """Show how many rows have how many tokens."""
    most = max((bar["rows"] for bar in bars), default=0) or 1
    cells: list[str] = []
    for bar in bars:
        low, high = f"{bar['from']:,}", f"{bar['to']:,}"
        label = low if low == high else f"{low}–{high}"
        width = f"{100 * bar['rows'] / most:.1f}%" if bar["rows"] else "0;visibility:hidden"
        cells.append(f'<span>{label}</span><div style="width:{width}"></div><span>{bar["rows"]:,}</span>')
    return f'<div class="eat-bars">{"".join(cells)}</div>'


def example(parts: Sequence[Mapping[str, Any]]) -> str:
    """Show a row as the model sees it; what it learns to write is marked."""
    shown = ""
    for part in parts:
        text = str(part["text"])
        if len(text) > _SHOWN:
            text = f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
        shown += f"<mark>{escape(text)}</mark>" if part["learned"] else escape(text)
    return f'<div class="eat-row">{shown}</div>'
