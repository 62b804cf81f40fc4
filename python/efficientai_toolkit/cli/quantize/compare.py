"""``quantized-model-benchmarks:compare``: compare two variants, or two benchmarks."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from efficientai_toolkit.cli.output import Output

if TYPE_CHECKING:
    from efficientai_toolkit.quantize.suite.comparison import Line

_COLUMNS: "dict[str, Callable[[Line], str]]" = {
    "quantity": lambda line: line.quantity,
    "first": lambda line: line.shown[0],
    "second": lambda line: line.shown[1],
    "ratio": lambda line: f"{line.second / line.first:.3f}" if line.first > 0 < line.second else "–",
    "verdict": lambda line: "" if line.verdict is None else line.verdict.answer,
}
"""Columns of the table of a row."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the two sides."""
    parser.add_argument(
        "first",
        metavar="FIRST",
        help="output folder of `:run`, or FOLDER::VARIANT (FOLDER::MODEL/VARIANT) for a row of it",
    )
    parser.add_argument("second", metavar="SECOND", help="what is compared with it")


def run(args: Namespace, out: Output) -> int:
    """Print a table per row; return 2 if a row failed on one side."""
    from efficientai_toolkit.quantize.suite.comparison import compare
    from efficientai_toolkit.study.table import format_table

    comparison = compare(args.first, args.second)
    out.line(f"{comparison.second} compared with {comparison.first}")
    for row in dict.fromkeys(line.row for line in comparison.lines):
        out.line(f"\n{row}")
        out.line(format_table([line for line in comparison.lines if line.row == row], _COLUMNS))
    for row, reason in comparison.failed.items():
        out.line(f"{row} failed: {reason}")
    verdicts = [line.verdict for line in comparison.lines if line.verdict is not None]
    reasons = dict.fromkeys(f"{verdict.answer}: {verdict.reason}" for verdict in verdicts)
    out.line("\n" + "\n".join([*reasons, *comparison.notes]))
    out.result(json.loads(json.dumps(asdict(comparison), default=str)))
    return 2 if comparison.failed else 0
