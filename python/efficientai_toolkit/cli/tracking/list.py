"""``tracking:list``: list the runs in a folder."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.tracking.options import add_folder, read_folder


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the list."""
    add_folder(parser)
    parser.add_argument("--kind", metavar="NAME", help="only runs of this kind, such as lora or search")
    parser.add_argument(
        "--all", action="store_true", help="also the parts of studies: trials of searches, compared methods"
    )


def run(args: Namespace, out: Output) -> int:
    """Print a line per run."""
    from efficientai_toolkit.trackers.table import format_runs

    found = read_folder(args, out)
    runs = found.runs if args.all else found.list_whole()
    runs = [run for run in runs if args.kind in {None, run.kind}]
    if runs:
        out.line(format_runs(found, runs))
    else:
        out.line(f"no runs in {found.folder}; commands that train or search save theirs in runs/")
    parts = len(found.runs) - len(found.list_whole())
    if parts and not args.all:
        out.note(f"{parts} parts of studies: --all lists them too")
    out.result(
        {
            "runs": [{"folder": str(run.folder), **run.to_dict()} for run in runs],
            "damaged": {str(path): reason for path, reason in found.damaged.items()},
        }
    )
    return 0
