"""Event files for `TensorBoard <https://www.tensorflow.org/tensorboard>`_, by tensorboardX."""

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from efficientai_toolkit._base.files import refuse_link
from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.trackers.backend import Backend, Tracked

FOLDER = "tensorboard"
"""Subfolder of the output folder. ``tensorboard --logdir runs`` finds those of all runs."""

_FLUSH_SECS = 5


class TensorBoard(Backend):
    """Scalars, and configuration, tags and result as texts."""

    def __init__(self, tracked: Tracked) -> None:
        folder = tracked.run.folder / FOLDER
        refuse_link(folder)
        folder.mkdir(parents=True, exist_ok=True)
        resumes = tracked.last_step >= 0
        if not resumes:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        self._writer: Any = import_module("tensorboardX").SummaryWriter(
            str(folder),
            # What was written after the checkpoint is hidden by its readers.
            purge_step=tracked.last_step + 1 if resumes else None,
            flush_secs=_FLUSH_SECS,
            # Files of the same second would have one name.
            filename_suffix=f".{len(list(folder.iterdir()))}",
        )
        if not resumes:
            self._add_text("configuration", tracked.run.configuration)
            self._add_text("tags", tracked.all_tags())

    def log(self, step: int, metrics: Mapping[str, float], when: float) -> None:
        """Add a scalar per metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step, walltime=when)

    def flush(self) -> None:
        """Write to the disk."""
        self._writer.flush()

    def end(self, run: Run) -> None:
        """Add status and result."""
        self._add_text("result", {"status": run.status, "error": run.error, **run.result})

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add_text(self, name: str, values: Mapping[str, Any]) -> None:
        # Indented, Markdown shows it as it is.
        text = json.dumps(values, indent=2, ensure_ascii=False)
        self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()))


BACKEND = TensorBoard
