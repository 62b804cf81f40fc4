"""Progress bar for terminals, with plain log lines for other outputs."""

import sys
import time
from typing import TextIO

from rich import progress
from rich.console import Console
from rich.table import Column

from efficientai_toolkit.callbacks.base import Callback
from efficientai_toolkit.callbacks.events import Event, Progress
from efficientai_toolkit.callbacks.training import (
    Estimated,
    Evaluated,
    OutOfMemory,
    Overflow,
    Started,
    Step,
    Stopped,
    describe_memory,
)

_LOG_LINES = 10
"""Approximate number of progress lines in a log."""
_SILENT_SECS = 2.0


class ProgressBar(Callback):
    """Callback that shows step, loss, learning rate, throughput, memory and remaining time.

    Parameters
    ----------
    stream
        Output stream; standard error by default. If it is not a terminal, about ten plain lines are
        written instead of a bar.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._bar: progress.Progress | None = None
        self._task = progress.TaskID(0)
        self._started = (0.0, 0)
        self._told = time.monotonic()

    def on(self, event: Event) -> None:
        """Display the event."""
        match event:
            case Progress():
                self._tell(_describe_stage(event))
            case Started():
                self._start(event)
            case Step():
                self._step(event)
            case Evaluated():
                if event.step == self._started[1]:
                    # The first validation says nothing about the pace of the steps.
                    self._started = (time.monotonic(), event.step)
                self._console.print(
                    f"validation after {event.step} steps: loss {event.loss:.3f}, {_quality(event)}"
                )
            case _:
                if remark := _remark(event):
                    self._console.print(remark)

    def close(self) -> None:
        """Stop the bar and leave its final state on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _tell(self, text: str) -> None:
        # What takes a moment is not worth a line.
        if time.monotonic() - self._told > _SILENT_SECS:
            self._told = time.monotonic()
            self._console.print(text)

    def _start(self, event: Started) -> None:
        share = event.trainable_parameters / max(event.total_parameters, 1)
        self._console.print(
            f"training {event.trainable_parameters:,} of {event.total_parameters:,} "
            f"parameters ({share:.2%}) for {event.steps:,} steps"
            + (f", continuing after step {event.first_step:,}" if event.first_step else "")
        )
        self._started = (time.monotonic(), event.first_step)
        if self._console.is_terminal:
            self._bar = progress.Progress(
                progress.BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=2)),
                progress.TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True)),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task(
                "train", total=event.steps, completed=event.first_step, status="first step …"
            )
            self._bar.start()

    def _step(self, event: Step) -> None:
        started, first_step = self._started
        pace = (time.monotonic() - started) / max(event.step - first_step, 1)
        status = format_step(event, secs_left=pace * (event.steps - event.step))
        if self._bar is not None:
            self._bar.update(self._task, completed=event.step, status=status)
            return
        every = max(event.steps // _LOG_LINES, 1)
        if event.step % every == 0 or event.step == event.steps:
            self._console.print(status)


def _describe_stage(event: Progress) -> str:
    """Describe how much of a stage is done."""
    name, _, subject = event.stage.partition(" ")
    match name:
        case "index":
            return f"{subject}: {event.done / event.total:.0%} read"
        case "reference":
            return f"the untouched model has read {event.done:,} of {event.total:,} pairs"
        case _:
            return f"{event.stage}: {event.done / event.total:.0%}"


def _remark(event: Event) -> str | None:
    """Return a line for events the bar does not show."""
    match event:
        case Estimated():
            return f"memory: {describe_memory(event)}"
        case Overflow():
            return f"step {event.step} skipped: gradients overflowed, loss scale is now {event.loss_scale:g}"
        case OutOfMemory():
            return f"memory ran out: going on with {event.rows:,} rows at once"
        case Stopped():
            return f"stopped after {event.step} steps: validation has not improved"
        case _:
            return None


def _quality(event: Evaluated) -> str:
    """Describe the quality that corresponds to the loss."""
    if event.reward_accuracy is None or event.reward_margin is None:
        return f"perplexity {event.perplexity:,.2f}"
    return f"reward accuracy {event.reward_accuracy:.1%}, margin {event.reward_margin:.3f}"


def format_step(event: Step, *, secs_left: float) -> str:
    """Format a step in at most 77 columns, for up to 99,999 steps."""
    rate = f"lr {event.lr:.1e}" if event.reward_accuracy is None else f"right {event.reward_accuracy:.0%}"
    left = format_duration(secs_left)
    return (
        f"{event.step}/{event.steps}  loss {event.loss:.3f}  {rate}  "
        f"{event.tokens_per_second:,.0f} tok/s  {event.peak_memory / 1e9:.2f} GB  {left} left"
    )


def format_duration(secs: float) -> str:
    """Format seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
