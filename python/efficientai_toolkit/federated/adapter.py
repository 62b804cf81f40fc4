"""Adapters as arrays that travel, and the engine's training on them."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.exceptions import TrainingError
from efficientai_toolkit.federated.config import FederatedConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from efficientai_toolkit._core.models import Model, Tokenizer

_WEIGHTS = "adapters.safetensors"
_CONFIG = "adapter_config.json"
_NOTHING = 1e-30
"""A learning rate too small to change a number; matrices that begin with zeros then hold less than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Result of a client's training."""

    arrays: "dict[str, NDArray[Any]]"
    loss: float
    """Mean training loss of its steps."""
    seconds: float


class AdapterTrainer:
    """Trains adapters of one model from given arrays.

    Parameters
    ----------
    config
        Configuration with its defaults filled in.
    folder
        Working folder.
    """

    def __init__(self, config: FederatedConfig, folder: Path) -> None:
        from efficientai_toolkit.models.loading import load

        self._config = config
        self._folder = folder
        dtype: Any = (config.training or {}).get("dtype")
        self._model: Model
        self._tokenizer: Tokenizer
        self._model, self._tokenizer = load(config.model_path, dtype=dtype, show_progress=False)

    def create(self, data: Path) -> "dict[str, NDArray[Any]]":
        """Return the arrays of a new adapter, as the engine initializes them with the seed of the run."""
        output = self._folder / "initial"
        self._run(data, output, self._config.seed, iters=1, lr=_NOTHING)
        arrays = read_arrays(output)
        # Of the step that was taken.
        return {name: np.where(np.abs(array) <= 2 * _NOTHING, 0, array) for name, array in arrays.items()}

    def train(
        self, arrays: "Mapping[str, NDArray[Any]]", data: Path, *, seed: int, **settings: Any
    ) -> Trained:
        """Train from ``arrays`` on the rows in ``data``."""
        start, output = self._folder / "start", self._folder / "trained"
        self.save(arrays, start)
        report = self._run(data, output, seed, init_adapter=str(start), **settings)
        losses = report["train_losses"]
        return Trained(
            arrays=read_arrays(output), loss=sum(losses) / len(losses), seconds=report["training_time_secs"]
        )

    def _run(self, data: Path, output: Path, seed: int, **settings: Any) -> dict[str, Any]:
        from efficientai_toolkit._engine.core import core

        text = self._config.training_json(data=str(data), output=str(output), seed=seed, **settings)
        report: dict[str, Any] = json.loads(core.lora.train(self._model, self._tokenizer, text, _ignore))
        return report

    def save(self, arrays: "Mapping[str, NDArray[Any]]", folder: Path) -> None:
        """Write an adapter to a folder, as every command reads it."""
        from importlib import import_module

        mx: Any = import_module("mlx.core")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._folder / "initial" / _CONFIG, folder / _CONFIG)
        temporary = folder / f".{_WEIGHTS[:-12]}.tmp.safetensors"
        mx.save_safetensors(str(temporary), {name: mx.array(array) for name, array in arrays.items()})
        temporary.replace(folder / _WEIGHTS)

    def evaluate(self, arrays: "Mapping[str, NDArray[Any]]", data: Path) -> float:
        """Return the loss of an adapter on the rows of a file, in nats per token."""
        from efficientai_toolkit.evaluation.run import evaluate

        folder = self._folder / "evaluated"
        self.save(arrays, folder)
        self._model.load_adapter(folder, "evaluated")
        self._model.set_adapter("evaluated")
        try:
            result = evaluate(
                self._model,
                self._tokenizer,
                data=str(data),
                metrics=["perplexity"],
                max_seq_length=self._config.max_seq_length,
            )
        finally:
            self._model.set_adapter(None)
            self._model.unload_adapter("evaluated")
        return math.log(result.metrics["perplexity"])


def read_arrays(folder: Path) -> "dict[str, NDArray[Any]]":
    """Return the arrays of an adapter.

    Raises
    ------
    TrainingError
        If they cannot be read.
    """
    import mlx.core as mx

    try:
        stored: Any = mx.load(str(folder / _WEIGHTS))
    except (OSError, RuntimeError, ValueError) as error:
        message = f"cannot read the adapter in {folder}: {error}"
        raise TrainingError(message) from error
    # Messages are numpy's, which has no bfloat16.
    return {name: np.array(stored[name].astype(mx.float32)) for name in sorted(stored)}


def _ignore(_: str) -> None:
    """Ignore an event of a client's training."""
