"""Columns of the tables of a benchmark."""

from collections.abc import Callable, Sequence

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.quantize.suite.measurement import Measurement
from efficientai_toolkit.study.table import format_table

Columns = dict[str, Callable[[Measurement], str]]

_NONE = "–"

_WIDE = {"p99 KL", "load", "backend"}
"""Columns that a terminal has no room for."""


def list_columns(rows: Sequence[Measurement]) -> Columns:
    """Return the columns of a table of ``rows``: those without a value are left out."""
    tasks = dict.fromkeys(name for row in rows for name in row.tasks)
    columns = {**_COLUMNS, **{name: _task(name) for name in tasks}, "front": _mark}
    if len({row.model for row in rows}) == 1:
        del columns["model"]
    return {
        title: cell
        for title, cell in columns.items()
        if title in {"variant", "front"} or any(cell(row) != _NONE for row in rows)
    }


def succeeded(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return the rows that were measured."""
    return [row for row in rows if row.error is None]


def format_rows(rows: Sequence[Measurement]) -> str:
    """Format rows as a text table, with the reasons of failures below it."""
    done = succeeded(rows)
    columns = {title: cell for title, cell in list_columns(done).items() if title not in _WIDE}
    lines = [format_table(done, columns)] if done else []
    return "\n".join([*lines, *list_failures(rows)])


def list_failures(rows: Sequence[Measurement]) -> list[str]:
    """Return a line per row that failed."""
    return [f"{row.model}/{row.variant} failed: {row.error}" for row in rows if row.error is not None]


def _task(name: str) -> Callable[[Measurement], str]:
    return lambda row: _number(row.tasks.get(name), ".3f")


def _mark(row: Measurement) -> str:
    return "*" if row.on_front else ""


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _size(value: float | None) -> str:
    return _NONE if value is None else format_size(value)


def _increase(row: Measurement) -> str:
    return _NONE if row.is_original else _number(row.perplexity_increase, "+.2%")


_COLUMNS: Columns = {
    "variant": lambda row: row.variant,
    "model": lambda row: row.model,
    "size": lambda row: _size(row.size_bytes),
    "bpw": lambda row: _number(row.bits_per_weight, ".2f"),
    "perplexity": lambda row: _number(row.perplexity, ",.3f"),
    "loss": _increase,
    "KL": lambda row: _number(row.mean_kl, ".4f"),
    "p99 KL": lambda row: _number(row.p99_kl, ".3f"),
    "top-1": lambda row: _number(row.top_agreement, ".1%"),
    "load": lambda row: _number(row.load_seconds, ".2f") + " s",
    "prefill": lambda row: _number(row.prefill_tokens_per_second, ",.0f"),
    "decode": lambda row: _number(row.decode_tokens_per_second, ",.1f"),
    "memory": lambda row: _size(row.peak_memory_bytes),
    "quantize": lambda row: _NONE if row.quantize_seconds is None else f"{row.quantize_seconds:,.1f} s",
    "backend": lambda row: row.backend or _NONE,
}
"""Functions that format a cell, by title. Speeds are in tokens per second; the loss is that of perplexity."""
