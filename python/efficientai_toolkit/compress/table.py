"""Columns of the tables of a compression."""

from collections.abc import Callable, Sequence

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.compress.measurement import CandidateRow
from efficientai_toolkit.study.table import format_table

_NONE = "–"

_WIDE = {"interval", "p99 KL", "prefill", "accuracy interval", "p"}
"""Columns that a terminal has no room for."""


def list_columns(rows: Sequence[CandidateRow]) -> dict[str, Callable[[CandidateRow], str]]:
    """Return the columns of a table of ``rows``: those without a value are left out."""
    return {
        title: cell
        for title, cell in _COLUMNS.items()
        if title == "candidate" or any(cell(row) != _NONE for row in rows)
    }


def list_measured(rows: Sequence[CandidateRow]) -> list[CandidateRow]:
    """Return the rows that have a perplexity, and are no failures."""
    return [row for row in rows if row.error is None and row.perplexity is not None]


def format_rows(rows: Sequence[CandidateRow], *, wide: bool = False) -> str:
    """Format rows as a text table, with the reasons of the others below it; ``wide`` with all columns."""
    done = list_measured(rows)
    columns = {title: cell for title, cell in list_columns(done).items() if wide or title not in _WIDE}
    lines = [format_table(done, columns)] if done else []
    return "\n".join([*lines, *list_reasons(rows)])


def list_reasons(rows: Sequence[CandidateRow]) -> list[str]:
    """Return a line per row that failed or was given up."""
    failed = [f"{row.variant} failed: {row.error}" for row in rows if row.error is not None]
    return failed + [f"{row.variant}: {row.given_up}" for row in rows if row.given_up is not None]


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _size(value: float | None) -> str:
    return _NONE if value is None else format_size(value)


def _interval(low: float | None, high: float | None) -> str:
    return _NONE if low is None or high is None else f"{low:+.2%} to {high:+.2%}"


_COLUMNS: dict[str, Callable[[CandidateRow], str]] = {
    "candidate": lambda row: row.variant,
    "size": lambda row: _size(row.size_bytes),
    "smaller": lambda row: _number(row.size_ratio and 1 / row.size_ratio, ".2f") + "×",
    "perplexity": lambda row: _number(row.perplexity, ",.3f"),
    "loss": lambda row: _NONE if row.is_original else _number(row.perplexity_increase, "+.2%"),
    "interval": lambda row: _NONE if row.is_original else _interval(row.loss_low, row.loss_high),
    "KL": lambda row: _number(row.mean_kl, ".4f"),
    "p99 KL": lambda row: _number(row.p99_kl, ".3f"),
    "top-1": lambda row: _number(row.top_agreement, ".1%"),
    "accuracy": lambda row: _number(row.accuracy, ".1%"),
    "accuracy interval": lambda row: (
        _NONE if row.is_original else _interval(row.accuracy_low, row.accuracy_high)
    ),
    "p": lambda row: _NONE if row.is_original else _number(row.accuracy_p, ".3f"),
    "prefill": lambda row: _number(row.prefill_tokens_per_second, ",.0f"),
    "decode": lambda row: _number(row.decode_tokens_per_second, ",.1f"),
    "faster": lambda row: _NONE if row.latency_ratio is None else f"{1 / row.latency_ratio:.2f}×",
    "memory": lambda row: _size(row.peak_memory_bytes),
    "front": lambda row: "*" if row.on_front else _NONE,
}
"""Functions that format a cell, by title. Speeds are in tokens per second; the loss is that of perplexity."""
