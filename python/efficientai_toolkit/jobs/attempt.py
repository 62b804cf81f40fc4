"""One attempt at a job: its process, from the request to its result."""

import json
import logging
import os
import signal
import time
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any, cast

from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.jobs.job import Job, State
from efficientai_toolkit.jobs.kinds import Kind, find_kind
from efficientai_toolkit.jobs.queue import Jobs
from efficientai_toolkit.jobs.recorder import Recorder
from efficientai_toolkit.jobs.settings import build_configs
from efficientai_toolkit.study.job import JobResult, Process, run_job

log = logging.getLogger(__package__)

_STOP_SECS = 60.0
"""Time that an interrupted job has to save a checkpoint."""


class Attempt:
    """A job that runs in a process of its own, watched by a thread.

    Parameters
    ----------
    jobs
        Where the job is stored.
    job
        The job, which is running.
    lock
        Descriptor of the runner's lock, which the process keeps open.
    on_end
        Called when the outcome is stored.
    """

    def __init__(self, jobs: Jobs, job: Job, lock: int, on_end: "Event") -> None:
        self.job = job
        self.is_stored = False
        """Whether the outcome is stored."""
        self._jobs = jobs
        self._lock = lock
        self._on_end = on_end
        self._process: Process | None = None
        self._stopped: State | None = None
        self._timer: Timer | None = None
        self._thread = Thread(target=self._run, name=f"job {job.id}")
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs, or its outcome is being stored."""
        return self._thread.is_alive()

    def stop(self, state: State) -> None:
        """Interrupt the process, which saves a checkpoint; the job is then in ``state``."""
        if self._stopped is not None:
            return
        self._stopped = state
        self._interrupt()

    def join(self) -> None:
        """Wait until the outcome is stored."""
        self._thread.join()

    def _interrupt(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        self._timer = Timer(_STOP_SECS, self._process.kill)
        self._timer.daemon = True
        self._timer.start()

    def _set_process(self, process: Process) -> None:
        self._process = process
        if self._stopped is not None:
            self._interrupt()

    def _run(self) -> None:
        try:
            self._store(self._execute())
            self.is_stored = True
        except Exception:
            log.exception("the outcome of job %d cannot be stored", self.job.id)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._on_end.set()

    def _execute(self) -> JobResult | None:
        """Return the result; ``None`` if the process was interrupted."""
        job = self.job
        recorder = Recorder(
            lambda events: self._jobs.store.record(job.id, events), self._jobs.store.count_events(job.id)
        )
        try:
            kind = find_kind(job.kind)
            folder = self._folder(kind)
            configs = build_configs(kind, job.settings, self._jobs.rules, **folder)
            return run_job(
                kind.function,
                {"configs": configs, "output": folder["output"]},
                on_event=lambda event: recorder.add(_relative(event, self._jobs.workspace.path)),
                on_line=recorder.add_line,
                on_start=self._set_process,
                keep_open=[self._lock],
            )
        except ToolkitError as error:
            return JobResult(error=str(error))
        except KeyboardInterrupt:
            return None
        finally:
            recorder.flush()

    def _folder(self, kind: Kind) -> dict[str, Any]:
        """Return the settings of the output folder: an earlier attempt is continued if it left something."""
        folder = self.job.folder(self._jobs.workspace.path)
        continues = kind.checkpoint is not None and any(folder.glob(kind.checkpoint))
        return {"output": str(folder), "resume": continues, "overwrite": not continues}

    def _store(self, result: JobResult | None) -> None:
        if result is not None and result.error is None:
            state: State = "finished"
        elif self._stopped is not None:
            state = self._stopped
        elif result is None:
            # By somebody else, such as Ctrl-C in the terminal of the server.
            state = "interrupted"
        else:
            state = "failed"
        error = None if result is None or state != "failed" else _clean(result.error or "")
        event: dict[str, Any] = {"event": "state", "state": state}
        if error is not None:
            event["error"] = error
        value = None
        if result is not None and state == "finished":
            value = _clean(json.dumps(_relative(result.value, self._jobs.workspace.path)))
        self._jobs.store.record(
            self.job.id,
            [event],
            state=state,
            error=error,
            ended=time.time(),
            result=value,
            peak_memory=None if result is None else result.peak_memory,
        )


def _clean(text: str) -> str:
    """Replace what the database cannot store."""
    return text.encode("utf-8", "replace").decode()


def _relative(value: Any, workspace: Path) -> Any:
    """Return a JSON value with the paths in the workspace relative to its folder."""
    match value:
        case str() if value.startswith(f"{workspace}{os.sep}"):
            return Path(value).relative_to(workspace).as_posix()
        case dict():
            pairs = cast("dict[str, object]", value)
            return {name: _relative(item, workspace) for name, item in pairs.items()}
        case list():
            return [_relative(item, workspace) for item in cast("list[object]", value)]
        case _:
            return value
