"""``cpu-model-compression:compress``: make models smaller and faster within a budget."""

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit._base.units import format_duration
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, wrap_paragraph
from efficientai_toolkit.cli.shared.progress import show
from efficientai_toolkit.cli.shared.resume import build_resume_command
from efficientai_toolkit.cli.shared.tracking import add_tracking, create_trackers
from efficientai_toolkit.compress.config import CompressConfig
from efficientai_toolkit.study.folder import RUNS, new_run, release

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.bars import TerminalBar
    from efficientai_toolkit.compress.result import CompressResult
    from efficientai_toolkit.compress.timetable import Progress

ESSENTIAL = (
    "model_path", "budget", "max_loss", "calibration", "data", "heldout", "task", "output", "export",
    "resume",
)  # fmt: skip
"""What most compressions set."""

_GROUPS = {
    "candidates": ("prune", "recover", "quantize", "candidates", "timeout_minutes", "stop_factor"),
    "calibration": ("calibration", "calibration_sequences", "sequence_length", "seed"),
    "recovery": ("data", "recovery_steps", "recovery_batch_size", "recovery_length", "recovery_lr"),
    "quality": ("heldout", "sequences", "length", "task", "items"),
    "speed": ("prompt_tokens", "generated_tokens", "repeats", "rounds"),
}
"""Fields of :class:`CompressConfig` by title; others concern the whole compression."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`CompressConfig`."""
    add_config(parser, CompressConfig, title="compression", groups=_GROUPS)
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Print the table and the choice; return 2 if none is within budget and loss, or an export failed."""
    from efficientai_toolkit.compress.result import FOLDER
    from efficientai_toolkit.compress.run import compress
    from efficientai_toolkit.compress.table import format_rows

    given = build_config(args, CompressConfig)
    trackers = create_trackers(args)
    config = given
    if config.output is None and not config.resume:
        config = replace(config, output=str(new_run(Path(RUNS), "compress")))
    reporter = _Reporter(args, out)
    try:
        result = compress(config, on_progress=reporter, callback=trackers, show_progress=not out.quiet)
    except KeyboardInterrupt:
        command = build_resume_command(
            args.argv, output=None if given.output else Path(str(config.output)), resumed=given.resume
        )
        message = f"interrupted; finished stages are saved, continue with:\n  {command}"
        raise KeyboardInterrupt(message) from None
    finally:
        reporter.close()
        release(Path(str(config.output)))
    out.note()
    out.line(format_rows(result.rows))
    out.line(_describe(result))
    out.line(f"\nreport in {result.output / FOLDER}: report.html, results.md, .csv and .json")
    out.result(json.loads(json.dumps(asdict(result), default=str)))
    has_failed = any("error" in one for one in result.exports)
    return 0 if result.choice.meets_budget and not has_failed else 2


def _describe(result: "CompressResult") -> str:
    choice = result.choice
    chosen = "none" if choice.row is None else choice.row.variant
    lines = [
        f"\n{'recommended' if choice.meets_budget else 'nearest'}: {chosen}",
        wrap_paragraph(choice.reason),
    ]
    if choice.row is not None:
        lines.append(f"model saved in {result.output}")
    lines += [
        f"exported {one['name']} to {one['path']}"
        if "path" in one
        else f"{one['name']} failed: {one['error']}"
        for one in result.exports
    ]
    return "\n".join(lines)


class _Reporter:
    """Shows stages and the time that is left, as ``--progress`` asks."""

    def __init__(self, args: Namespace, out: Output) -> None:
        self._args, self._out = args, out
        self._uses_bar = args.progress == "bar" and not out.quiet and sys.stderr.isatty()
        self._bar: TerminalBar | None = None

    def __call__(self, progress: "Progress") -> None:
        """Show a stage."""
        if self._uses_bar:
            self._update(progress)
        elif progress.event is None:
            show(
                self._args,
                self._out,
                event=lambda: {"event": "stage", **asdict(progress)},
                line=lambda: _line(progress),
            )

    def _update(self, progress: "Progress") -> None:
        from rich.console import Console

        from efficientai_toolkit.callbacks.bars import TerminalBar

        event = progress.event or {}
        part = f" {event['done']}/{event['total']}" if {"done", "total"} <= event.keys() else ""
        status = f"{progress.stage} {progress.candidate}{part}{_left(progress)}"
        if self._bar is None:
            console = Console(stderr=True, highlight=False)
            self._bar = TerminalBar(console, done=progress.done, total=progress.total, status="")
        self._bar.update(progress.done, status[: self._bar.room], total=progress.total)

    def close(self) -> None:
        """Leave the final state of the bar on the screen."""
        if self._bar is not None:
            self._bar.close()


def _line(progress: "Progress") -> str:
    stage = f"{progress.stage} {progress.candidate}"
    return f"{progress.done + 1}/{progress.total}  {stage}{_left(progress)}"


def _left(progress: "Progress") -> str:
    left = progress.seconds_left
    return "" if left is None else f", about {format_duration(left)} left"
