"""Trackers by name."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec

from efficientai_toolkit._base.extras import missing
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.trackers.backend import Backend


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of tracker."""

    module: str
    """Module of this folder, whose ``BACKEND`` is its class."""
    help: str
    requires: tuple[str, ...] = ()
    """Modules of the extra with the tracker's name."""

    def load(self) -> type[Backend]:
        """Import the back end."""
        found: type[Backend] = import_module(f"{__package__}.{self.module}").BACKEND
        return found


TRACKERS = {
    "tensorboard": Place("tensorboard", "event files for TensorBoard", ("tensorboardX",)),
    "mlflow": Place("mlflow", "a run in an MLflow store or server", ("mlflow", "alembic")),
    "wandb": Place("wandb", "a run of Weights & Biases, offline unless configured", ("wandb",)),
    "jsonl": Place("json_lines", "metrics.jsonl, a line of JSON per step"),
    "csv": Place("csv_file", "metrics.csv, a row per step"),
}
"""All trackers, in the order of the help."""


def check_names(names: Iterable[str]) -> list[str]:
    """Return names of trackers, each once, after checking that they can be used.

    Raises
    ------
    ConfigError
        If there is no such tracker; the message suggests the closest one.
    DependencyError
        If what it needs is not installed; the message contains the installation command.
    """
    found = list(dict.fromkeys(part.strip() for name in names for part in name.split(",")))
    for name in found:
        if name not in TRACKERS:
            closest = get_close_matches(name, TRACKERS, n=1)
            hint = f"; did you mean {closest[0]}?" if closest else ""
            message = f"unknown tracker {name[:80]!r}; there are {', '.join(TRACKERS)}{hint}"
            raise ConfigError(message)
        for module in TRACKERS[name].requires:
            if find_spec(module) is None:
                error = ModuleNotFoundError(f"No module named {module!r}")
                raise missing(error, module=module, extra=name, purpose=f"tracking with {name}")
    return found
