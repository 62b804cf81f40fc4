"""Files of a compression: JSON, CSV, Markdown, plots, and a report in one HTML file."""

from collections.abc import Mapping
from html import escape
from typing import Any

from efficientai_toolkit._base.files import write_figure, write_text
from efficientai_toolkit.benchmark.page import html_figure, html_page, html_pairs, html_table, markdown_table
from efficientai_toolkit.compress.result import FOLDER, RESULTS, CompressResult
from efficientai_toolkit.compress.table import list_columns, list_measured, list_reasons
from efficientai_toolkit.quantize.suite.plots import draw_front

_LEGEND = (
    "Candidate: steps in order. Loss: increase of the perplexity over the original's, with its 95 % interval "
    "over sequences; KL: mean Kullback–Leibler divergence of the next-token distributions from the "
    "original's, "
    "in nats; top-1: share of positions with the original's most likely token; accuracy: share of the "
    "questions "
    "answered right, with the 95 % interval of the paired difference from the original's and the p-value of "
    "McNemar's exact test; prefill and decode in tokens per second; faster: time per generated token, "
    "relative to "
    "the original's in the same round; memory: peak while generating; front: no other candidate is smaller, "
    "faster and closer to the original."
)


def write_files(result: CompressResult, *, plots: bool) -> None:
    """Write all files to the output folder; ``plots`` need matplotlib."""
    folder = result.output / FOLDER
    result.to_csv(folder / "results.csv")
    figures = draw(result) if plots else {}
    for name, figure in figures.items():
        write_figure(folder / f"{name}.png", figure)
        write_figure(folder / f"{name}.svg", figure)
    write_text(folder / "results.md", to_markdown(result))
    write_text(folder / "report.html", to_html(result, figures))
    # The last: it tells that the compression is done.
    result.to_json(folder / RESULTS)


def draw(result: CompressResult) -> dict[str, Any]:
    """Return the plots by the stem of their files."""
    done = [row for row in result.rows if row.is_measured]
    return {"front": draw_front(done)} if any(row.mean_kl for row in done) else {}


def _headline(result: CompressResult) -> str:
    chosen = "none" if result.choice.row is None else result.choice.row.variant
    return f"{'Recommended' if result.choice.meets_budget else 'Nearest'}: {chosen}"


def to_markdown(result: CompressResult) -> str:
    """Return the result as Markdown."""
    done = list_measured(result.rows)
    lines = ["# Compression", "", f"**{_headline(result)}.** {result.choice.reason}.", ""]
    lines += [*markdown_table(done, list_columns(done)), ""]
    lines += [f"- {reason}" for reason in list_reasons(result.rows)]
    lines += ["", _LEGEND, "", "## Environment", ""]
    lines += [f"- {name}: {text}" for name, text in result.environment]
    return "\n".join(lines) + "\n"


def to_html(result: CompressResult, figures: Mapping[str, Any]) -> str:
    """Return a page that needs no other file; ``figures`` stand in it as SVG."""
    done = list_measured(result.rows)
    parts = [f"<p><strong>{escape(_headline(result))}.</strong> {escape(result.choice.reason)}.</p>"]
    parts += [html_table(done, list_columns(done))]
    parts += [html_figure(figure) for figure in figures.values()]
    parts.append(f"<p>{escape(_LEGEND)}</p>")
    if reasons := list_reasons(result.rows):
        parts += ["<h2>Failed or given up</h2>", *(f"<p>{escape(reason)}</p>" for reason in reasons)]
    if result.exports:
        parts += [
            "<h2>Exports</h2>",
            html_pairs(
                [
                    (one["name"], one.get("error") or f"{one['path']}, {one['size']:,} bytes")
                    for one in result.exports
                ]
            ),
        ]
    settings = [(name, str(value)) for name, value in result.config.items() if value not in (None, [], {})]
    parts += ["<h2>Settings</h2>", html_pairs(settings)]
    parts += ["<h2>Environment</h2>", html_pairs(result.environment)]
    return html_page("Compression", parts)
