"""``tracking:compare``: compare runs."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit._base.tables import align
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.tracking.options import add_folder, add_plot
from efficientai_toolkit.trackers.values import printable

_WIDEST = 32
"""Columns of a value."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the runs."""
    parser.add_argument(
        "runs_to_compare",
        metavar="RUN",
        nargs="+",
        help="folder of a run, its name in the folder of runs, or its id; two or more",
    )
    add_folder(parser)
    add_plot(parser)


def run(args: Namespace, out: Output) -> int:
    """Print what differs and what came of it."""
    from efficientai_toolkit.trackers import compare, draw_runs, find_run, read_history
    from efficientai_toolkit.trackers.settings import format_value

    runs = [find_run(name, args.runs) for name in args.runs_to_compare]
    comparison = compare(*runs)
    if args.plot is not None:
        draw_runs(args.plot, dict(zip(args.runs_to_compare, runs, strict=True)), args.metric)
    header = ("", *(run.folder.name for run in runs))
    settings = [
        (printable(name), *(_shorten("–" if value is None else format_value(value)) for value in values))
        for name, values in comparison.settings.items()
    ]
    metrics = [
        (printable(name), *("–" if value is None else f"{value:.6g}" for value in values))
        for name, values in comparison.metrics.items()
    ]
    out.line("\n".join(align([("settings that differ", *header[1:]), *settings], left=1)))
    out.line("\n" + "\n".join(align([("result", *header[1:]), *metrics], left=1)))
    if args.plot is not None:
        out.line(f"\nwrote {args.plot}")
    out.result(
        {
            "runs": [str(run.folder) for run in runs],
            "settings": comparison.settings,
            "metrics": comparison.metrics,
            "curves": [read_history(run).curves for run in runs],
        }
    )
    return 0


def _shorten(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _WIDEST else f"…{text[1 - _WIDEST :]}"
