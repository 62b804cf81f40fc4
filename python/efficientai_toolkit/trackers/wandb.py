"""Runs of `Weights & Biases <https://wandb.ai>`_, offline unless the user has configured more."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.files import refuse_link
from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.trackers.backend import Backend, Tracked
from efficientai_toolkit.trackers.json_lines import JsonLines, read_rows
from efficientai_toolkit.trackers.wandb_file import read_last_step

PROJECT = "efficientai-toolkit"
"""Project, unless ``WANDB_PROJECT`` names another one."""

FOLDER = "wandb"
"""Subfolder of the output folder, unless ``WANDB_DIR`` names another one."""

JOURNAL = "history.jsonl"
"""File in the subfolder of the output folder with all rows."""


class Wandb(Backend):
    """A run with configuration, history and summary; parts of a study are a group."""

    def __init__(self, tracked: Tracked) -> None:
        # No reports of errors to others, unless the user wants them.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        parent = Path(os.environ.get("WANDB_DIR", tracked.run.folder)).absolute()
        for place in (parent, tracked.run.folder):
            refuse_link(place / FOLDER)
        mode = choose_mode()
        resumes = tracked.run.resumed is not None
        self._run: Any = wandb.init(
            mode=mode,
            id=tracked.run.id,
            # Offline there is nothing to ask; the id puts the files together when they are synchronized.
            resume="allow" if resumes and mode != "offline" else None,
            dir=str(parent),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", tracked.name),
            group=tracked.parent.id if tracked.parent is not None else None,
            job_type=tracked.run.kind,
            config={**tracked.run.configuration, "run": tracked.all_tags()},
            tags=[tracked.run.kind, *tracked.tags.values()],
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                # The metrics of the run have memory and speed; machines are in run.json.
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        self._exit_code = 1
        self._last = -1
        if resumes:
            earlier = (parent / FOLDER).glob(f"*run-*-{tracked.run.id}/run-{tracked.run.id}.wandb")
            self._last = max([self._run.step - 1, *map(read_last_step, earlier)])
        # The library holds rows back, which are lost when the process is killed.
        self._journal = JsonLines(tracked, f"{FOLDER}/{JOURNAL}")
        for row in read_rows(tracked.run.folder / FOLDER / JOURNAL):
            self._add(**row)

    def log(self, step: int, metrics: Mapping[str, float], when: float) -> None:
        """Add metrics to the history."""
        self._journal.log(step, metrics, when)
        self._add(step, time=round(when, 3), **metrics)

    def _add(self, step: int, **values: float) -> None:
        if step > self._last:
            self._run.log(values, step=step)

    def end(self, run: Run) -> None:
        """Write status and result, and end the run."""
        self._run.summary.update({"status": run.status, **run.result})
        if run.error is not None:
            self._run.summary["error"] = run.error
        self._exit_code = 0 if run.status == "finished" else 1

    def close(self) -> None:
        """End the run; one without a result has failed."""
        self._journal.close()
        self._run.finish(exit_code=self._exit_code)


def choose_mode() -> Any:
    """Return the mode: that of ``WANDB_MODE``; without it online if there is an API key, or offline."""
    default = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    return os.environ.get("WANDB_MODE") or default


BACKEND = Wandb
