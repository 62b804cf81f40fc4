"""Progress output: ``--progress bar``, ``json`` or ``silent``."""

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
    """Return the callback that ``--progress`` selects."""
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
    """Report progress.

    ``event`` returns the object for ``json``, ``line`` the text for ``bar``, or ``None`` for no output.
    """
    if args.progress == "json":
        sys.stderr.write(json.dumps(event()) + "\n")
    elif args.progress == "bar" and (text := line()) is not None:
        out.note(text)
