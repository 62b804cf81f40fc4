"""Runs in a folder, by their ``run.json``."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.study.folder import RUNS
from efficientai_toolkit.study.record import RECORD, load_run

_MAX_DEPTH = 6
_MAX_RUNS = 20_000
_SKIPPED = frozenset({"checkpoints", "tensorboard", "wandb"})
"""Subfolders without runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """The runs in a folder."""

    folder: Path
    runs: list[Run]
    """The oldest first, parts of studies included."""
    damaged: dict[Path, str]
    """Records that cannot be read, with the reason."""

    def list_whole(self) -> list[Run]:
        """Return the runs that are no part of a study among them."""
        folders = {run.folder for run in self.runs}
        return [run for run in self.runs if folders.isdisjoint(run.folder.parents)]

    def name(self, run: Run) -> str:
        """Return the folder of a run, relative to this one."""
        return run.folder.relative_to(self.folder).as_posix()


def read_runs(folder: str | Path = RUNS) -> RunFolder:
    """Read the records of all runs in a folder and its subfolders; links are not followed.

    Raises
    ------
    ConfigError
        If there is no such folder.
    """
    parent = Path(folder).expanduser()
    if not parent.is_dir():
        message = f"there is no folder {parent}; name the one that runs are saved in"
        raise ConfigError(message)
    runs: list[Run] = []
    damaged: dict[Path, str] = {}
    for path in _find_records(parent):
        try:
            if path.is_symlink():
                message = "a symbolic link, which is not followed"
                raise ValueError(message)
            runs.append(load_run(path.parent))
        except (OSError, ValueError) as error:
            damaged[path] = str(error)
        if len(runs) >= _MAX_RUNS:
            break
    return RunFolder(
        folder=parent, runs=sorted(runs, key=lambda run: (run.started or "", run.folder)), damaged=damaged
    )


def find_run(name: str | Path, folder: str | Path = RUNS) -> Run:
    """Return the run in a folder, or one of ``folder`` by its name or the beginning of its id.

    Raises
    ------
    ConfigError
        If there is no such run, or its record is damaged.
    """
    for place in (Path(name).expanduser(), Path(folder).expanduser() / name):
        if (place / RECORD).is_file():
            try:
                return load_run(place)
            except (OSError, ValueError) as error:
                message = f"{place / RECORD} is damaged: {error}"
                raise ConfigError(message) from error
    found = read_runs(folder)
    matching = [run for run in found.runs if run.id.startswith(str(name))]
    if len(matching) == 1:
        return matching[0]
    names = [found.name(run) for run in found.runs]
    closest = get_close_matches(str(name), names, n=3)
    hint = f"did you mean {', '.join(closest)}?" if closest else f"there are {len(names)} runs in {folder}"
    message = f"there is no run {str(name)[:200]!r}: {hint}"
    raise ConfigError(message)


def _find_records(parent: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(parent):
        depth = len(Path(place).relative_to(parent).parts)
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and depth < _MAX_DEPTH)
        if RECORD in files:
            yield Path(place) / RECORD
