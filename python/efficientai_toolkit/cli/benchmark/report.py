"""``benchmark report``: write a report of a stored run."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.benchmark.options import add_results
from efficientai_toolkit.cli.output import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of a report."""
    parser.add_argument(
        "run", metavar="RUN", nargs="?", default="latest", help="id, or name of a baseline (default: latest)"
    )
    add_results(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="write FILE, a .md, .json, .csv or .html (default: print Markdown)",
    )
    parser.add_argument("--baseline", metavar="NAME", help="compare with this run, by id or name")


def run(args: Namespace, out: Output) -> int:
    """Print or write the report."""
    from efficientai_toolkit.benchmark import Store, compare_runs, write_report
    from efficientai_toolkit.benchmark.report import to_dict, to_markdown

    store = Store(args.results)
    stored = store.load(args.run)
    comparison = compare_runs(store.load(args.baseline), stored) if args.baseline else None
    if args.output is None:
        out.piece(to_markdown(stored, comparison))
    else:
        write_report(args.output, stored, comparison)
        out.line(f"wrote {args.output}")
    out.result(to_dict(stored, comparison))
    return 0
