"""Curves of runs, from what they saved: the files of trackers, the report, or the last checkpoint."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from efficientai_toolkit.callbacks.run import Run, numbers
from efficientai_toolkit.trackers import csv_file, json_lines
from efficientai_toolkit.trackers.values import as_dict, as_list

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
    yield from _read_losses(_load(path).get("report"))


def _read_state(path: Path) -> Iterator[dict[str, Any]]:
    yield from _read_losses(_load(path).get("history"))


def _read_losses(report: object) -> Iterator[dict[str, Any]]:
    losses = as_dict(report)
    for step, loss in enumerate(as_list(losses.get("train_losses")), 1):
        yield {"step": step, "train/loss": loss}
    for pair in as_list(losses.get("validation_losses")):
        step, loss = (*as_list(pair), None, None)[:2]
        if isinstance(step, int):
            yield {"step": step, "valid/loss": loss}


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        return as_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}
