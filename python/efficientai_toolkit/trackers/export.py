"""Runs for other programs: CSV, JSON and JSON lines."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit._base.files import write_text
from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.trackers.history import read_history
from efficientai_toolkit.trackers.settings import flatten, format_value

Format = Literal["csv", "json", "jsonl"]

_COLUMNS = ("folder", "id", "kind", "status", "error", "started", "resumed", "ended")


def export_runs(runs: Sequence[Run], format: Format, path: str | Path | None = None) -> str:  # noqa: A002
    """Return runs as text, and write it to a file if there is one.

    Parameters
    ----------
    runs
        Runs.
    format
        ``csv``: a row per run, with all settings and final metrics. ``json`` and ``jsonl``: the records with
        their curves, as a list or a line each.
    path
        File, replaced if it exists.
    """
    if format == "csv":
        text = _to_csv([_flatten(run) for run in runs])
    else:
        records = [describe_run(run) for run in runs]
        text = json.dumps(records, indent=2, ensure_ascii=False) + "\n"
        if format == "jsonl":
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if path is not None:
        write_text(Path(path).expanduser(), text)
    return text


def describe_run(run: Run) -> dict[str, Any]:
    """Return the record of a run with its folder and curves."""
    return {"folder": str(run.folder), **run.to_dict(), "curves": read_history(run).curves}


def _flatten(run: Run) -> dict[str, object]:
    settings = {name: format_value(value) for name, value in flatten(run.configuration).items()}
    return {
        **{name: getattr(run, name) for name in _COLUMNS},
        **{f"configuration.{name}": value for name, value in settings.items()},
        **{f"result.{name}": value for name, value in run.result.items()},
    }


def _to_csv(rows: list[dict[str, object]]) -> str:
    columns = dict.fromkeys(name for row in rows for name in row) or dict.fromkeys(_COLUMNS)
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
