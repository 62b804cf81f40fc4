"""Curves of runs, from what they saved: the files of trackers, the report, or the last checkpoint."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from efficientai_toolkit.callbacks.run import Run, numbers
from efficientai_toolkit.trackers import csv_file, json_lines

_MAX_ROWS = 2_000_000
_MAX_BYTES = 256 << 20

Curve = list[tuple[int, float]]
"""Steps and values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Curves of a run."""

    source: Path | None
    """File they were read from; ``None`` if there is none."""
    curves: dict[str, Curve]
    """Steps and values by metric."""


def read_history(run: Run) -> History:
    """Read the curves of a run.

    ``metrics.jsonl`` and ``metrics.csv``, which ``--track jsonl,csv`` writes, have all metrics; without them
    there are the losses of the report, or of the last checkpoint of a run that did not finish.
    """
    for path, read in _list_sources(run.folder):
        if path.is_file() and not path.is_symlink():
            curves = _collect(islice(read(path), _MAX_ROWS))
            if curves:
                return History(source=path, curves=curves)
    return History(source=None, curves={})


def _list_sources(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Iterator[dict[str, Any]]]]]:
    yield folder / json_lines.FILE, json_lines.read_rows
    yield folder / csv_file.FILE, csv_file.read_rows
    yield folder / "training.json", _read_report
    checkpoints = sorted(folder.glob("checkpoints/step-*/state.json"))
    if checkpoints:
        yield checkpoints[-1], _read_state


def _collect(rows: Iterable[dict[str, Any]]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for row in rows:
        for name, value in numbers(row).items():
            if name not in {"step", "time"}:
                curves.setdefault(name, []).append((row["step"], value))
    return curves


def _read_report(path: Path) -> Iterator[dict[str, Any]]:
    values = _load(path)
    yield from _read_losses(values.get("report") if isinstance(values, dict) else None)


def _read_state(path: Path) -> Iterator[dict[str, Any]]:
    values = _load(path)
    yield from _read_losses(values.get("history") if isinstance(values, dict) else None)


def _read_losses(report: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(report, dict):
        return
    for step, loss in enumerate(report.get("train_losses") or (), 1):
        yield {"step": step, "train/loss": loss}
    for pair in report.get("validation_losses") or ():
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int):  # noqa: PLR2004
            yield {"step": pair[0], "valid/loss": pair[1]}


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
