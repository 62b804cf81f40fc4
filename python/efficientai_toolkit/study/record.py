"""Records of runs: ``run.json`` in the output folder, from which results can be compared and reproduced."""

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from efficientai_toolkit._base.files import write_json
from efficientai_toolkit.callbacks.base import AnyCallback, Callback, as_callback
from efficientai_toolkit.callbacks.events import Event, Progress, parse_event
from efficientai_toolkit.callbacks.run import Run, Status, numbers
from efficientai_toolkit.device import hardware
from efficientai_toolkit.study.folder import describe_environment, fingerprint_data

RECORD = "run.json"
"""Record of a run's configuration, environment and result."""

_MAX_BYTES = 16 << 20
"""Largest record that is read."""

_PREPARATION = ("index", "embed rows")
"""Stages before the engine takes the output folder."""

log = logging.getLogger(__package__)


class Recorder(Callback):
    """Callback that keeps the record of a run and hands everything on to another callback.

    As a context manager it ends the run: ``finished``, or ``failed`` or ``interrupted`` after an exception. A
    run that did not begin leaves no record.

    Parameters
    ----------
    output
        Output folder.
    kind
        Kind of run.
    configuration
        All settings as JSON-compatible values.
    data
        Files and folders of the data.
    resume
        Whether the run in the folder is continued.
    callback
        Receives the run and its events; closed at the end.
    """

    def __init__(
        self,
        output: Path,
        *,
        kind: str,
        configuration: Mapping[str, Any],
        data: Iterable[Path] = (),
        resume: bool = False,
        callback: AnyCallback | None = None,
    ) -> None:
        self._output = output
        self._kind = kind
        # As it is written and read back.
        self._configuration: dict[str, Any] = json.loads(json.dumps(dict(configuration), default=str))
        self._data = data
        self._resume = resume
        self._callback = as_callback(callback)
        self._run: Run | None = None
        self.result: Mapping[str, Any] = {}
        """Final metrics, to be set before the end; what is no number is left out."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """End the run, if it has begun."""
        try:
            if self._run is not None:
                reason = None if error is None else " ".join(str(error).split()) or type(error).__name__
                status = "finished" if error is None else _find_status(error)
                self._callback.end(end_run(self._run, status, error=reason, result=self.result))
        finally:
            self._callback.close()

    def start(self) -> None:
        """Write ``run.json``, and begin the run."""
        former = read_run(self._output) if self._resume else None
        now = _now()
        run = Run(
            folder=self._output,
            id=uuid4().hex,
            kind=self._kind,
            started=now,
            configuration=self._configuration,
            environment=describe_environment(),
            hardware=asdict(hardware()),
            data=fingerprint_data(self._data),
        )
        if former is not None and former.kind == self._kind:
            run = replace(run, id=former.id, started=former.started, resumed=now)
        _write(run)
        self._run = run
        self._callback.begin(run)

    def on(self, event: Event) -> None:
        """Begin the run with the first event after its preparation."""
        is_preparation = isinstance(event, Progress) and event.stage.startswith(_PREPARATION)
        if self._run is None and not is_preparation:
            self.start()
        self._callback.on(event)

    def observe(self, text: str) -> None:
        """Handle an event of the engine."""
        self.on(parse_event(text))

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Hand the numbers among the metrics on."""
        self._callback.log(step, numbers(metrics))


def end_run(run: Run, status: Status, *, error: str | None = None, result: Mapping[str, Any] = {}) -> Run:
    """Write the end of a run into its record; a disk that is full then does not undo what was saved."""
    ended = replace(run, status=status, error=error, ended=_now(), result=numbers(result))
    try:
        _write(ended)
    except OSError as failure:
        log.warning("%s cannot be written: %s", run.folder / RECORD, failure.strerror)
    return ended


def read_run(folder: Path) -> Run | None:
    """Return the run recorded in a folder, or ``None`` if there is none or its record is damaged."""
    try:
        return load_run(folder)
    except (OSError, ValueError):
        return None


def load_run(folder: Path) -> Run:
    """Return the run recorded in a folder.

    Raises
    ------
    OSError
        If the record cannot be read.
    ValueError
        If it is damaged; the message says how.
    """
    with (folder / RECORD).open("rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        message = f"larger than {_MAX_BYTES >> 20} MiB"
        raise ValueError(message)
    try:
        values = json.loads(text)
    except RecursionError as error:
        message = "nested too deeply"
        raise ValueError(message) from error
    return Run.from_dict(folder, values)


def _write(run: Run) -> None:
    write_json(run.folder / RECORD, run.to_dict())


def _find_status(error: BaseException) -> Status:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    optuna: Any = sys.modules.get("optuna")
    return "pruned" if optuna is not None and isinstance(error, optuna.TrialPruned) else "failed"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
