"""Options that several commands share."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.study.folder import RUNS
from efficientai_toolkit.trackers import RunFolder, read_runs


def add_folder(parser: ArgumentParser) -> None:
    """Add the option for the folder that runs are looked for in."""
    parser.add_argument(
        "--runs", metavar="FOLDER", type=Path, default=Path(RUNS), help=f"folder of runs (default: {RUNS})"
    )


def add_plot(parser: ArgumentParser) -> None:
    """Add the options of a plot."""
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the curves into FILE, a .png or .svg")
    parser.add_argument(
        "--metric",
        metavar="NAME",
        action="append",
        default=[],
        help="metric of the curves, such as train/loss; repeat it for more (default: losses, lr, speed)",
    )


def read_folder(args: Namespace, out: Output) -> RunFolder:
    """Read the runs, and name the damaged ones."""
    found = read_runs(args.runs)
    for path, reason in found.damaged.items():
        out.note(f"skipped {path}: {reason}")
    return found
