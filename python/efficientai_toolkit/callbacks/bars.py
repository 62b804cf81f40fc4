"""Bars that show how much of a task is done: on a terminal and in a Jupyter notebook."""

import sys
from html import escape
from importlib import import_module
from typing import Any, Protocol

from rich import progress
from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.table import Column

_MIN_BAR = 4
_MARGIN = 3
"""Columns right of the bar, so that the ``^C`` of a terminal does not wrap the line and leave it twice."""


class Bar(Protocol):
    """A bar on the screen."""

    @property
    def room(self) -> int:
        """Number of columns for the status."""
        ...

    def update(self, done: int, status: str) -> None:
        """Show that ``done`` units are done."""

    def close(self) -> None:
        """Leave the final state on the screen."""


class _Narrow(progress.Progress):
    def __init__(self, console: Console, *columns: progress.ProgressColumn) -> None:
        # The base class renders before it has a console.
        self._terminal = console
        super().__init__(*columns, console=console, expand=True)

    def get_renderable(self) -> RenderableType:
        return Constrain(super().get_renderable(), max(self._terminal.width - _MARGIN, 1))


class TerminalBar:
    """A bar on a terminal, with the percentage and a status."""

    def __init__(self, console: Console, *, done: int, total: int, status: str) -> None:
        self._console = console
        self._bar = _Narrow(
            console,
            progress.BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=_MIN_BAR)),
            progress.TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True)),
            progress.TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True)),
        )
        self._task = self._bar.add_task("", total=total, completed=done, status=status)
        self._bar.start()

    @property
    def room(self) -> int:
        """Number of columns for the status."""
        return self._console.width - _MARGIN - _MIN_BAR - len(" 100% ")

    def update(self, done: int, status: str, *, total: int | None = None) -> None:
        """Show that ``done`` units are done, of a ``total`` that may have changed."""
        self._bar.update(self._task, completed=done, status=status, total=total)

    def close(self) -> None:
        """Leave the final state on the screen."""
        self._bar.stop()


class NotebookBar:
    """A bar in the output of a notebook's cell; needs nothing but IPython."""

    room = 1000

    def __init__(self, *, done: int, total: int, status: str) -> None:
        self._total = total
        self._handle: Any = import_module("IPython.display").display(
            self._html(done, status), raw=True, display_id=True
        )

    def update(self, done: int, status: str) -> None:
        """Show that ``done`` units are done."""
        self._handle.update(self._html(done, status), raw=True)

    def close(self) -> None:
        """Keep the final state, which the notebook saves."""

    def _html(self, done: int, status: str) -> dict[str, str]:
        percentage = f"{done / max(self._total, 1):.0%}"
        bar = f'<progress value="{done}" max="{self._total}" style="width: 40%"></progress>'
        return {
            "text/html": f"<div>{bar} {percentage} {escape(status)}</div>",
            "text/plain": f"{percentage} {status}",
        }


def in_notebook() -> bool:
    """Return whether the process is the kernel of a Jupyter notebook."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
