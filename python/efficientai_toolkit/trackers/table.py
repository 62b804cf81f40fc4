"""Runs as a table."""

from datetime import datetime
from pathlib import Path

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit._base.tables import align
from efficientai_toolkit._base.units import format_duration
from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.trackers.runs import RunFolder
from efficientai_toolkit.trackers.values import as_dict, as_list, printable

_METRICS = ("loss_after", "perplexity", "loss", "final_loss", "bits_per_weight", "reward_accuracy")
"""Metrics of the table, the most telling ones first."""

_SHOWN = 2
_BUNDLED = {str(MODEL): "embedded", str(INSTRUCTIONS): "bundled instructions"}
_PLACES = ("training", "comparison", "analysis")


def format_runs(folder: RunFolder, runs: list[Run]) -> str:
    """Return a line per run: name, kind, status, model, data, metrics and times."""
    cells = [("run", "kind", "status", "model", "data", "result", "started", "time")]
    cells += [
        (
            printable(folder.name(run)),
            printable(run.kind),
            run.status,
            describe_model(run),
            describe_data(run),
            describe_result(run),
            printable(run.started or "–")[:16].replace("T", " "),
            "–" if (secs := compute_seconds(run)) is None else format_duration(secs),
        )
        for run in runs
    ]
    return "\n".join(line.rstrip() for line in align(cells, left=7))


def describe_model(run: Run) -> str:
    """Return the name of the model."""
    return _describe(run, "model_path", "models")


def describe_data(run: Run) -> str:
    """Return the name of the data."""
    return _describe(run, "data", "calibration")


def describe_result(run: Run) -> str:
    """Return the most telling final metrics."""
    names = [name for name in _METRICS if name in run.result] or list(run.result)
    return "  ".join(f"{printable(name)} {run.result[name]:.4g}" for name in names[:_SHOWN]) or "–"


def compute_seconds(run: Run) -> float | None:
    """Return the duration of a run, since it was last resumed; ``None`` if it did not end."""
    try:
        begin = datetime.fromisoformat(run.resumed or run.started or "")
        return (datetime.fromisoformat(run.ended or "") - begin).total_seconds()
    except (ValueError, TypeError):
        return None


def _describe(run: Run, *names: str) -> str:
    for part in (run.configuration, *(as_dict(run.configuration.get(place)) for place in _PLACES)):
        for name in names:
            if value := part.get(name):
                paths = as_list(value) or [value]
                shown = ", ".join(_BUNDLED.get(str(path), Path(str(path)).name) for path in paths)
                return printable(shown[:40])
    return "–"
