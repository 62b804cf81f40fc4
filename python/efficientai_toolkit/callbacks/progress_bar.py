"""Progress of a training run: a bar on terminals and in notebooks, plain log lines elsewhere."""

import sys
import time
from typing import TextIO

from rich.console import Console

from efficientai_toolkit._base.units import format_duration, format_size
from efficientai_toolkit.callbacks.bars import Bar, NotebookBar, TerminalBar, in_notebook
from efficientai_toolkit.callbacks.base import Callback
from efficientai_toolkit.callbacks.events import Event, Progress
from efficientai_toolkit.callbacks.rounds import Round
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
        Output stream; by default standard error, or the output of the cell in a notebook. If it is not a
        terminal, about ten plain lines are written instead of a bar.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._notebook = stream is None and in_notebook()
        # Notebooks show standard error as if it were an error.
        default = sys.stdout if self._notebook else sys.stderr
        self._console = Console(file=stream or default, highlight=False, soft_wrap=True, force_jupyter=False)
        self._bar: Bar | None = None
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
                    f"validation after {event.step} steps: loss {event.loss:.3f}{_quality(event)}"
                )
            case _:
                if remark := _remark(event):
                    self._console.print(remark)

    def close(self) -> None:
        """Stop the bar and leave its final state on the screen."""
        if self._bar is not None:
            self._bar.close()
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
        done, total, status = event.first_step, event.steps, "first step …"
        if self._notebook:
            self._bar = NotebookBar(done=done, total=total, status=status)
        elif self._console.is_terminal:
            self._bar = TerminalBar(self._console, done=done, total=total, status=status)

    def _step(self, event: Step) -> None:
        started, first_step = self._started
        pace = (time.monotonic() - started) / max(event.step - first_step, 1)
        secs_left = pace * (event.steps - event.step)
        if self._bar is not None:
            self._bar.update(event.step, format_step(event, secs_left=secs_left, room=self._bar.room))
            return
        every = max(event.steps // _LOG_LINES, 1)
        if event.step % every == 0 or event.step == event.steps:
            self._console.print(format_step(event, secs_left=secs_left))


def _describe_stage(event: Progress) -> str:
    """Describe how much of a stage is done."""
    name, _, subject = event.stage.partition(" ")
    match name:
        case "index":
            return f"{subject}: {event.done / event.total:.0%} read"
        case "reference":
            return f"reference log-probabilities: {event.done:,} of {event.total:,} pairs"
        case _:
            return f"{event.stage}: {event.done / event.total:.0%}"


def _remark(event: Event) -> str | None:
    """Return a line for events the bar does not show."""
    match event:
        case Estimated():
            return f"memory: {describe_memory(event)}"
        case Overflow():
            return f"step {event.step} skipped: gradient overflow, loss scale reduced to {event.loss_scale:g}"
        case OutOfMemory():
            return f"out of memory: continuing with {event.rows:,} rows at once"
        case Round():
            return _describe_round(event)
        case Stopped():
            return f"early stopping after {event.step} steps: the validation loss has not improved"
        case _:
            return None


def _describe_round(event: Round) -> str:
    parts = [f"round {event.round}/{event.rounds}: {event.clients} clients"]
    if event.rejected:
        parts.append(f"{event.rejected} left out")
    if event.train_loss is not None:
        parts.append(f"training loss {event.train_loss:.3f}")
    if event.loss is not None and event.perplexity is not None:
        parts.append(f"validation loss {event.loss:.3f}, perplexity {event.perplexity:,.2f}")
    return ", ".join([*parts, format_duration(event.seconds)])


def _quality(event: Evaluated) -> str:
    """Describe the quality that corresponds to the loss; empty if it says all itself."""
    if event.reward_accuracy is not None and event.reward_margin is not None:
        return f", reward accuracy {event.reward_accuracy:.1%}, margin {event.reward_margin:.3f}"
    return "" if event.perplexity is None else f", perplexity {event.perplexity:,.2f}"


def format_step(event: Step, *, secs_left: float, room: int = 1000) -> str:
    """Format a step in ``room`` columns: what matters least is left out where they are too few."""
    rate = f"lr {event.lr:.1e}" if event.reward_accuracy is None else f"accuracy {event.reward_accuracy:.0%}"
    # By importance; the order on the screen is that of the numbers.
    parts = {
        0: f"{event.step}/{event.steps}",
        1: f"loss {event.loss:.3f}",
        5: f"{format_duration(secs_left)} left",
        3: f"{event.tokens_per_second:,.0f} tok/s",
        4: format_size(event.peak_memory),
        2: rate,
    }
    while len(status := "  ".join(parts[place] for place in sorted(parts))) > room and len(parts) > 1:
        parts.popitem()
    return status
