"""Progress of runs: a bar on a terminal, otherwise a line per case."""

import sys
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

from efficientai_toolkit.benchmark.runner import Progress
from efficientai_toolkit.benchmark.table import describe_result
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.progress import show

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.bars import TerminalBar


class Reporter:
    """Shows the progress of a run as ``--progress`` asks; a context manager that ends the bar."""

    def __init__(self, args: Namespace, out: Output) -> None:
        self._args, self._out = args, out
        self._uses_bar = args.progress == "bar" and not out.quiet and sys.stderr.isatty()
        self._bar: TerminalBar | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the final state of the bar on the screen."""
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Show what a run is doing."""
        if self._uses_bar:
            self._update(progress)
            return
        result = progress.result
        if result is not None:
            show(
                self._args,
                self._out,
                event=lambda: {"event": "result", **asdict(progress)},
                line=lambda: f"{progress.done}/{progress.total}  {describe_result(result)}",
            )

    def _update(self, progress: Progress) -> None:
        from rich.console import Console

        from efficientai_toolkit.callbacks.bars import TerminalBar

        status = f"{min(progress.done + 1, progress.total)}/{progress.total} {progress.case}"
        if self._bar is None:
            console = Console(stderr=True, highlight=False)
            self._bar = TerminalBar(console, done=progress.done, total=progress.total, status="")
        self._bar.update(progress.done, status[: self._bar.room])
