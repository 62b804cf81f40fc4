"""The callback of all trackers."""

import time
from collections.abc import Mapping
from functools import partial

from efficientai_toolkit.callbacks.base import Callback
from efficientai_toolkit.callbacks.events import Event
from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.callbacks.training import Checkpoint, Started
from efficientai_toolkit.trackers.backend import Backend, Tracked
from efficientai_toolkit.trackers.metrics import get_metrics
from efficientai_toolkit.trackers.names import TRACKERS, check_names
from efficientai_toolkit.trackers.worker import Worker


class Tracker(Callback):
    """Callback that writes runs to trackers: configuration, metrics by step, tags, status and result.

    >>> import efficientai_toolkit as eat
    >>> tracker = eat.trackers.Tracker("tensorboard", "mlflow")  # doctest: +SKIP
    >>> eat.lora.MLXTrainer(callback=tracker).train()  # doctest: +SKIP

    A resumed run goes on where it was, without a step twice. A tracker that fails logs one warning, and the
    run goes on. The parts of a study are tracked as runs of their own, where they have an output folder.

    Parameters
    ----------
    *names
        ``tensorboard``, ``mlflow``, ``wandb``, ``jsonl`` or ``csv``; several may be separated by commas.
    tags
        Tags of the runs, for those trackers that have them.

    Raises
    ------
    ConfigError
        If there is no such tracker.
    DependencyError
        If what a tracker needs is not installed; the message contains the installation command.
    """

    def __init__(self, *names: str, tags: Mapping[str, str] | None = None) -> None:
        self.names = check_names(names)
        self._tags = dict(tags or {})
        self._open: list[_OpenRun] = []

    def begin(self, run: Run) -> None:
        """Begin to track a run; one that begins in another run is a part of it."""
        parent = self._open[-1].run if self._open else None
        self._open.append(_OpenRun(run, parent, self.names, self._tags))

    def on(self, event: Event) -> None:
        """Track the metrics of the event."""
        if not self._open:
            return
        if isinstance(event, Started):
            self._open[-1].start(event.first_step)
        if (found := get_metrics(event)) is not None:
            self._open[-1].log(*found)
        if isinstance(event, Checkpoint):
            # What is resumed from it is not trained again: up to there everything must be written.
            self._open[-1].settle()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Track metrics of a part of a study."""
        if self._open:
            self._open[-1].log(step, dict(metrics))

    def end(self, run: Run) -> None:
        """End the run, which waits until everything is written."""
        if self._open:
            self._open.pop().end(run)

    def close(self) -> None:
        """End the runs that were left open."""
        while self._open:
            self._open.pop().finish()


class _OpenRun:
    """A run with a worker for each tracker; they start when it is known where the run goes on."""

    def __init__(self, run: Run, parent: Run | None, names: list[str], tags: Mapping[str, str]) -> None:
        self.run = run
        self._parent = parent
        self._names = names
        self._tags = tags
        self._last_step = -1
        self._workers: list[Worker] | None = None

    def start(self, steps: int) -> None:
        """Open the trackers; the first ``steps`` steps are done."""
        if self._workers is not None:
            return
        if self.run.resumed is not None and steps > 0:
            self._last_step = steps
        tracked = Tracked(run=self.run, parent=self._parent, last_step=self._last_step, tags=self._tags)
        self._workers = [Worker(name, partial(_open, name, tracked)) for name in self._names]

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.start(step - 1)
        if step <= self._last_step:
            # A resumed run begins with the validation that its first part ended with.
            return
        now = time.time()
        for worker in self._workers or ():
            worker.call(lambda backend: backend.log(step, metrics, now))

    def settle(self) -> None:
        for worker in self._workers or ():
            worker.settle()

    def end(self, run: Run) -> None:
        # One that failed before its first step is tracked too.
        self.start(0)
        for worker in self._workers or ():
            worker.call(lambda backend: backend.end(run))
        self.finish()

    def finish(self) -> None:
        for worker in self._workers or ():
            worker.finish()


def _open(name: str, tracked: Tracked) -> Backend:
    return TRACKERS[name].load()(tracked)
