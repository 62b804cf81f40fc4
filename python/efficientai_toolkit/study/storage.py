"""Storage of a search: its files, and which of its trials are to be repeated."""

import sqlite3
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.files import refuse_link

STUDY = "study.db"
"""SQLite storage of Optuna in the output folder."""

INTERRUPTED = "interrupted"
"""Reason of a trial that was stopped with Ctrl-C."""

_ENDINGS = ("", "-journal", "-wal", "-shm")
"""Endings of the files of a SQLite storage."""

_REPEATS = "repeats"
"""Attribute of a trial: the number of the unfinished trial that it repeats."""


def check_files(output: Path) -> None:
    """Check that the storage in the folder ``output`` would be written through no symbolic link.

    Raises
    ------
    TrainingError
        If it would.
    """
    for ending in _ENDINGS:
        refuse_link(output / f"{STUDY}{ending}")


def open_storage(path: Path) -> Any:
    """Return Optuna's storage in a file of any name, which a URL would have to escape."""
    connect = partial(sqlite3.connect, path, check_same_thread=False)
    return import_module("optuna").storages.RDBStorage("sqlite://", engine_kwargs={"creator": connect})


def repeat_unfinished(study: Any) -> list[int]:
    """Enqueue the unfinished trials that are not repeated yet, with the values they had.

    Returns
    -------
    list of int
        The numbers of those trials.
    """
    failed = import_module("optuna").trial.TrialState.FAIL
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "RUNNING":
            # Left over from a process that was killed.
            study.tell(trial.number, state=failed)
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(_REPEATS) for trial in trials}
    unfinished = [trial for trial in trials if _is_unfinished(trial) and trial.number not in repeated]
    for trial in unfinished:
        values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        study.enqueue_trial(values, user_attrs={_REPEATS: trial.number})
    return [trial.number for trial in unfinished]


def list_ended(study: Any) -> list[Any]:
    """Return the trials that ended by themselves."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and not _is_unfinished(trial)]


def is_storage_error(error: BaseException | None) -> bool:
    """Return whether an exception, or one that it followed, says that the storage cannot be used."""
    kind = import_module("optuna").exceptions.StorageInternalError
    return error is not None and (isinstance(error, kind) or is_storage_error(error.__context__))


def _is_unfinished(trial: Any) -> bool:
    """Return whether a trial was stopped for a reason that is not its own.

    Those stopped with Ctrl-C were. Those whose process was killed are repeated once: memory that is short for
    their settings ends the process too.
    """
    reason = trial.user_attrs.get("reason")
    is_killed = reason is None and _REPEATS not in trial.user_attrs
    return trial.state.name == "FAIL" and (is_killed or reason == INTERRUPTED)
