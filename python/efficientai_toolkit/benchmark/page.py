"""Tables in Markdown and HTML, and pages that need no other file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any, TypeVar

R = TypeVar("R")

_STYLE = (
    "body{font-family:sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}.pairs td{text-align:left;white-space:pre-wrap}"
    "svg{width:100%;margin-top:1.5em}"
)


def markdown_table(rows: Sequence[R], columns: Mapping[str, Callable[[R], str]]) -> list[str]:
    """Return the lines of a table; none without rows.

    Parameters
    ----------
    rows
        Rows of the table.
    columns
        Functions that format a cell of a row, by column title.
    """
    if not rows:
        return []
    # A bar would end the cell.
    cells = [[cell(row).replace("|", r"\|") for cell in columns.values()] for row in rows]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return [f"| {' | '.join(line)} |" for line in [list(columns), rule, *cells]]


def html_table(rows: Sequence[R], columns: Mapping[str, Callable[[R], str]]) -> str:
    """Return a table as HTML; parameters as in :func:`markdown_table`."""
    head = "".join(f"<th>{escape(title)}</th>" for title in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell(row))}</td>' for cell in columns.values())}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def html_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a table of names and texts as HTML."""
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in pairs)
    return f'<table class="pairs">{body}</table>'


def html_figure(figure: Any) -> str:
    """Return a figure of matplotlib as SVG."""
    file = BytesIO()
    figure.savefig(file, format="svg")
    text = file.getvalue().decode("utf-8")
    # Without the declaration of an XML file, which has no place within a page.
    return text[text.index("<svg") :]


def html_page(title: str, parts: Iterable[str]) -> str:
    """Return a page with a title and parts in HTML."""
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
    )
    return "\n".join([*head, *parts, "</body></html>"]) + "\n"
