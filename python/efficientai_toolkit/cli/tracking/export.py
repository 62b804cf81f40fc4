"""``tracking:export``: write runs for other programs."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import get_args

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.tracking.options import add_folder, read_folder
from efficientai_toolkit.trackers.export import Format


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of an export."""
    parser.add_argument(
        "names",
        metavar="RUN",
        nargs="*",
        help="folder of a run, its name in the folder of runs, or its id (default: all runs)",
    )
    add_folder(parser)
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        default="csv",
        help="csv: a row per run; json, jsonl: records with curves (default: csv)",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="file to write (default: print)")


def run(args: Namespace, out: Output) -> int:
    """Print or write the runs."""
    from efficientai_toolkit.trackers import export_runs, find_run

    runs = [find_run(name, args.runs) for name in args.names] or read_folder(args, out).runs
    text = export_runs(runs, args.format, args.output)
    if args.output is None:
        out.piece(text)
    else:
        out.line(f"wrote {len(runs)} runs to {args.output}")
    out.result(
        {"runs": len(runs), "output": args.output, "format": args.format}
        if args.output is not None
        else {"runs": len(runs), "format": args.format, "text": text}
    )
    return 0
