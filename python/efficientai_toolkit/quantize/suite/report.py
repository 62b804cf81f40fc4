"""Files of a benchmark: JSON, CSV, Markdown, plots, and a report in one HTML file."""

from collections.abc import Mapping
from html import escape
from typing import Any

from efficientai_toolkit._base.files import write_figure, write_text
from efficientai_toolkit.benchmark.page import html_figure, html_page, html_pairs, html_table, markdown_table
from efficientai_toolkit.quantize.suite.plots import draw_front, draw_layers, draw_sensitivity
from efficientai_toolkit.quantize.suite.result import RESULTS, BenchmarkResult
from efficientai_toolkit.quantize.suite.table import list_columns, list_failures, succeeded

_LEGEND = (
    "bpw: stored bits per weight; loss: increase of the perplexity over the original's; KL: mean "
    "Kullback–Leibler divergence of the next-token distributions from the original's, in nats; top-1: share "
    "of positions with the original's most likely token; prefill and decode in tokens per second; memory: "
    "peak while generating; front: no other variant is smaller, faster and closer to the original."
)

_TITLES = {
    "front": "Quality, size and speed",
    "layers": "Error of the weights by layer",
    "sensitivity": "Divergence if one layer alone is quantized",
}
"""Headings of the plots."""


def write_files(result: BenchmarkResult, *, plots: bool) -> None:
    """Write all files to the output folder; ``plots`` need matplotlib."""
    folder = result.output
    result.to_json(folder / RESULTS)
    result.to_csv(folder / "results.csv")
    figures = draw(result) if plots else {}
    for name, figure in figures.items():
        write_figure(folder / f"{name}.png", figure)
        write_figure(folder / f"{name}.svg", figure)
    write_text(folder / "results.md", to_markdown(result))
    write_text(folder / "report.html", to_html(result, figures))


def draw(result: BenchmarkResult) -> dict[str, Any]:
    """Return the plots by the stem of their files.

    These are the front, and for each model the errors of its layers and their sensitivity, if they are known.
    """
    done = succeeded(result.rows)
    figures: dict[str, Any] = {}
    if any(row.mean_kl for row in done):
        figures["front"] = draw_front(done)
    models = list(dict.fromkeys(row.model for row in done))
    for number, model in enumerate(models, start=1):
        suffix = "" if len(models) == 1 else f"-{number}"
        errors, sensitivity = (
            {
                row.variant: found[f"{row.model}/{row.variant}"]
                for row in done
                if row.model == model and f"{row.model}/{row.variant}" in found
            }
            for found in (result.layers, result.sensitivity)
        )
        if errors:
            figures[f"layers{suffix}"] = draw_layers(errors)
        if sensitivity:
            # Every variant that has one has measured the same.
            figures[f"sensitivity{suffix}"] = draw_sensitivity(next(iter(sensitivity.values())))
    return figures


def to_markdown(result: BenchmarkResult) -> str:
    """Return the results as Markdown."""
    done = succeeded(result.rows)
    lines = ["# Quantized models", "", *markdown_table(done, list_columns(done)), ""]
    lines += [f"- {failure}" for failure in list_failures(result.rows)]
    lines += ["", _LEGEND, "", "## Environment", ""]
    lines += [f"- {name}: {text}" for name, text in result.environment]
    return "\n".join(lines) + "\n"


def to_html(result: BenchmarkResult, figures: Mapping[str, Any]) -> str:
    """Return a page that needs no other file; ``figures`` stand in it as SVG."""
    done = succeeded(result.rows)
    parts = [html_table(done, list_columns(done))]
    parts += [f"<p>{escape(failure)}</p>" for failure in list_failures(result.rows)]
    parts.append(f"<p>{escape(_LEGEND)}</p>")
    for name, figure in figures.items():
        parts += [f"<h2>{_TITLES[name.partition('-')[0]]}</h2>", html_figure(figure)]
    settings = [(name, str(value)) for name, value in result.config.items() if value not in (None, [], {})]
    parts += ["<h2>Settings</h2>", html_pairs(settings)]
    parts += ["<h2>Environment</h2>", html_pairs(result.environment)]
    return html_page("Quantized models", parts)
