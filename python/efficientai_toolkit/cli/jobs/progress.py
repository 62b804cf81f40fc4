"""Progress of a job, from its events."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from efficientai_toolkit.callbacks.base import Callback, Silent
from efficientai_toolkit.callbacks.events import read_event
from efficientai_toolkit.callbacks.progress_bar import ProgressBar
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.jobs.job import JobEvent


def show_events(events: Iterable[JobEvent], args: Namespace, out: Output) -> None:
    """Show events as ``--progress`` says, until there are no more."""
    if args.progress == "json":
        for event in events:
            sys.stderr.write(json.dumps(asdict(event)) + "\n")
            sys.stderr.flush()
        return
    is_silent = out.quiet or args.progress == "silent"
    bars: dict[str | None, Callback] = {}
    try:
        for event in events:
            # A comparison has several runs.
            name = event.data.get("run")
            bar = bars.setdefault(name, Silent() if is_silent else ProgressBar())
            known = read_event(event.data)
            if known is not None:
                bar.on(known)
            elif not is_silent and (line := _describe(event.data)):
                out.note(line)
    finally:
        for bar in bars.values():
            bar.close()


def _describe(data: Mapping[str, Any]) -> str | None:
    """Describe an event that the bar does not know."""
    match data["event"]:
        case "state":
            reason = f": {data['error']}" if "error" in data else ""
            return f"{data['state']}{reason}"
        case "log":
            return str(data["line"])
        case "trial":
            scores: dict[str, float] = data["values"] or {}
            values = (f"{name} {value:.4g}" for name, value in scores.items())
            outcome = data["reason"] or ", ".join(values) or data["state"]
            return f"trial {data['number'] + 1}/{data['trials']}: {outcome}"
        case "measured":
            return f"{data['method']}: {data['error'] or 'loss {:.3f}'.format(data['loss_after'])}"
        case "short_run":
            loss = data["reason"] or f"loss {data['loss']:.3f}"
            return f"short run of {data['steps']} steps: {loss}"
        case _:
            return None
