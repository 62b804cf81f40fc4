"""Repeated training runs on one loaded model."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientai_toolkit._base.files import refuse_link
from efficientai_toolkit.callbacks.base import Borrowed, Callback, Silent, as_callback
from efficientai_toolkit.callbacks.events import Event
from efficientai_toolkit.callbacks.training import Evaluated
from efficientai_toolkit.exceptions import ConfigError, TrainingError
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.result import TrainingResult
from efficientai_toolkit.lora.trainer import MLXTrainer

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


def _keeps_weights(config: TrainingConfig) -> bool:
    """Return whether removing the adapters restores the loaded model."""
    return config.method in {"lora", "dora"} and config.lora_init == "default"


class Runner:
    """Trains configurations one after the other, reusing the loaded model if possible.

    Parameters
    ----------
    evaluations
        Number of validations per run.
    callback
        Receives the runs and their events; not closed.
    """

    def __init__(self, *, evaluations: int, callback: Callback | None = None) -> None:
        self._evaluations = evaluations
        self._callback = Borrowed(callback or Silent())
        self._loaded: tuple[tuple[Any, ...], Model, Tokenizer] | None = None
        self._rows: dict[tuple[Any, ...], int] = {}

    def check(self, config: TrainingConfig) -> None:
        """Check model and data, which are the same for all runs.

        Raises
        ------
        ConfigError, DatasetError, ModelLoadingError
            If the run could not start or there are no validation rows.
        """
        self.count_rows(config)

    def train(
        self, config: TrainingConfig, output: Path, on_loss: Callable[[int, float], object]
    ) -> TrainingResult:
        """Train and write the result to ``output``.

        Parameters
        ----------
        config
            Configuration of the run. Output, resuming and checkpoint settings are ignored.
        output
            Output folder, replaced if it exists; not a link.
        on_loss
            Called after each validation during training with its number, from 1, and its loss. An exception
            stops the run and propagates.

        Raises
        ------
        ToolkitError
            If the run fails or its loss is not finite.
        """
        refuse_link(output)
        every = max(math.ceil(self.steps(config) / self._evaluations), 1)
        config = replace(
            config, output=str(output), eval_every=every, save_every=0, resume=False, overwrite=True
        )
        count = 0

        def observe(event: Event) -> None:
            nonlocal count
            if isinstance(event, Evaluated) and event.step > 0:
                count += 1
                on_loss(count, event.loss)

        model, tokenizer = self.load(config)
        if not _keeps_weights(config):
            self.forget()
        callbacks = [self._callback, as_callback(observe)]
        result = MLXTrainer(config, callback=callbacks, model=model, tokenizer=tokenizer).train()
        loss = result.metrics["loss_after"]
        if not math.isfinite(loss):
            message = f"the validation loss is {loss}"
            raise TrainingError(message)
        return result

    def forget(self) -> None:
        """Discard the loaded model."""
        self._loaded = None

    def count_rows(self, config: TrainingConfig) -> int:
        """Count the training rows.

        Raises
        ------
        ConfigError, DatasetError
            If the run could not start or there are no validation rows.
        """
        from efficientai_toolkit._engine.core import core

        key = (config.data, config.max_seq_length, config.mask_prompt, config.packing, config.streaming)
        if key not in self._rows:
            model, tokenizer = self.load(config)
            report = json.loads(core.lora.validate(model, tokenizer, config.to_json()))
            if not report["valid"]["rows"]:
                message = (
                    f"{config.data}: there are no validation rows to compare runs on; give at least two rows"
                )
                raise ConfigError(message)
            train = report["train"]
            rows = train["packed_rows"] if config.packing else train["rows"] - train["dropped"]
            share = train["rows"] / (train["sampled_from"] or train["rows"])
            self._rows[key] = round(rows / share)
        return self._rows[key]

    def load(self, config: TrainingConfig) -> "tuple[Model, Tokenizer]":
        """Load a model, reusing that of the previous run if its weights are unchanged."""
        from efficientai_toolkit.models.loading import load

        key = (config.model_path, config.dtype, config.bits)
        if self._loaded is None or self._loaded[0] != key:
            # First, so that two models are never in memory together.
            self._loaded = None
            self._loaded = (key, *load(config.model_path, dtype=config.dtype, bits=config.bits))
        return self._loaded[1:]

    def steps(self, config: TrainingConfig) -> int:
        """Compute the number of optimizer steps of a run."""
        if config.iters is not None:
            return config.iters
        batches = math.ceil(self.count_rows(config) / config.batch_size) * config.epochs
        return math.ceil(batches / config.grad_accumulation)
