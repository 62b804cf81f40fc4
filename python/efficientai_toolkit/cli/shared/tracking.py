"""The option ``--track`` of commands that train or search."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from efficientai_toolkit.cli.shared.progress import choose_callback

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.base import Callback


def add_tracking(parser: ArgumentParser) -> None:
    """Add ``--track``."""
    parser.add_argument_group("tracking").add_argument(
        "--track",
        metavar="NAME,…",
        action="append",
        default=[],
        help="track the run with tensorboard, mlflow, wandb, jsonl or csv; several separated by commas",
    )


def create_trackers(args: Namespace) -> "list[Callback]":
    """Return the tracker that ``--track`` asks for, if it does."""
    if not args.track:
        return []
    from efficientai_toolkit.trackers.tracker import Tracker

    return [Tracker(*args.track)]


def choose_callbacks(args: Namespace) -> "list[Callback]":
    """Return the callback that ``--progress`` selects, and the tracker."""
    # The tracker first: a name that is unknown ends the command before a bar is there.
    return [*create_trackers(args), choose_callback(args)]
