"""How progress is shown: ``--progress bar``, ``json`` or ``silent``."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.cli.output import Output

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.base import Callback

PROGRESS = ("bar", "json", "silent")


def choose_callback(args: Namespace) -> "Callback":
    """The callback of a run that tells its events itself."""
    from efficientai_toolkit.callbacks.base import JsonLines, Silent

    if args.progress == "json":
        return JsonLines()
    if args.quiet or args.progress == "silent":
        return Silent()
    from efficientai_toolkit.callbacks.progress_bar import ProgressBar

    return ProgressBar()


def show(
    args: Namespace, out: Output, *, event: Callable[[], Mapping[str, Any]], line: Callable[[], str | None]
) -> None:
    """Tell that a part of the work is done.

    ``event`` makes the object for ``json``, ``line`` the line for people, or ``None`` where they need none.
    """
    if args.progress == "json":
        sys.stderr.write(json.dumps(event()) + "\n")
    elif args.progress == "bar" and (text := line()) is not None:
        out.note(text)
