"""Checkpoints of the server after each round: one folder, replaced as a whole."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit._base.files import replace_folder, write_json
from efficientai_toolkit.exceptions import TrainingError
from efficientai_toolkit.federated.rounds import RoundReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHECKPOINT = "checkpoint"
"""Folder of the checkpoint in the output folder."""

_STATE = "state.json"
_ARRAYS = "arrays.npz"
_CLIENTS = "clients"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerState:
    """All that the server needs to go on after a round."""

    round: int
    """The last finished round."""
    arrays: "dict[str, NDArray[Any]]"
    """The global arrays."""
    step: "dict[str, dict[str, NDArray[Any]]]"
    """State of the server's optimizer by name and array."""
    clients: dict[str, Any]
    """What the selection knows of clients."""
    best: tuple[float, int]
    """Lowest loss, and its round."""
    history: list[RoundReport]
    """Reports of all rounds."""
    privacy: dict[str, Any] | None = None
    """What is spent of the privacy budget."""
    memories: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """What clients of this process remember, by node."""


def save_state(output: Path, state: ServerState) -> None:
    """Replace the checkpoint in the output folder."""

    def fill(folder: Path) -> None:
        named = {f"arrays/{name}": array for name, array in state.arrays.items()}
        named |= {
            f"step/{kind}/{name}": array
            for kind, group in state.step.items()
            for name, array in group.items()
        }
        np.savez(folder / _ARRAYS, **named)  # type: ignore[arg-type]
        if state.memories:
            (folder / _CLIENTS).mkdir()
            for node, content in state.memories.items():
                (folder / _CLIENTS / str(node)).write_bytes(content)
        values = {
            "round": state.round,
            "clients": state.clients,
            "best": state.best,
            "privacy": state.privacy,
            "history": [report.to_dict() for report in state.history],
        }
        write_json(folder / _STATE, values)

    replace_folder(output / CHECKPOINT, fill)


def load_state(output: Path) -> ServerState:
    """Return the state in the checkpoint of an output folder.

    Raises
    ------
    TrainingError
        If there is none, or it is damaged.
    """
    folder = output / CHECKPOINT
    if not folder.is_dir():
        message = f"{output} holds no checkpoint to resume; leave out --resume"
        raise TrainingError(message)
    try:
        values = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        arrays: dict[str, Any] = {}
        step: dict[str, dict[str, Any]] = {"first": {}, "second": {}, "count": {}}
        with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
            for key in stored.files:
                kind, _, name = key.partition("/")
                if kind == "arrays":
                    arrays[name] = stored[key]
                else:
                    group, _, name = name.partition("/")
                    step[group][name] = stored[key]
        remembered: Iterable[Path] = (folder / _CLIENTS).iterdir() if (folder / _CLIENTS).is_dir() else []
        memories = {int(file.name): file.read_bytes() for file in remembered}
        best, best_round = values["best"]
        history = [RoundReport.from_dict(report) for report in values["history"]]
        return ServerState(
            round=int(values["round"]),
            arrays=arrays,
            step=step,
            clients=dict(values["clients"]),
            best=(float(best), int(best_round)),
            history=history,
            privacy=values.get("privacy"),
            memories=memories,
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError, EOFError) as error:
        message = f"the checkpoint {folder} is damaged ({error}); start again with --overwrite"
        raise TrainingError(message) from error
