"""Training."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from efficientai_toolkit.callbacks.base import Callback, as_callback
from efficientai_toolkit.callbacks.events import Event, parse_event
from efficientai_toolkit.callbacks.training import Estimated
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.result import TrainingResult

if TYPE_CHECKING:
    from efficientai_toolkit._core import Model, Tokenizer


class MLXTrainer:
    """One training run.

    Parameters
    ----------
    config
        What to train on what, and how; by default, the embedded model on the bundled data.
    callback
        Receives every event: a :class:`~efficientai_toolkit.callbacks.Callback` such as
        ``ProgressBar()``, or a function. By default the run is silent.
    model, tokenizer
        From :func:`efficientai_toolkit.load`, where they are loaded already; ``config``
        then only names where they came from. After training the model has the adapters.
    """

    def __init__(
        self,
        config: TrainingConfig | None = None,
        *,
        callback: Callback | Callable[[Event], object] | None = None,
        model: "Model | None" = None,
        tokenizer: "Tokenizer | None" = None,
    ) -> None:
        if (model is None) != (tokenizer is None):
            message = "give both `model` and `tokenizer`, or neither"
            raise ConfigError(message)
        self.config = (config or TrainingConfig()).with_defaults_filled()
        self.callback = as_callback(callback)
        self.model = model
        self.tokenizer = tokenizer

    def train(self) -> TrainingResult:
        """Run to the end; Ctrl-C keeps the last checkpoint and raises ``KeyboardInterrupt``.

        Returns
        -------
        TrainingResult

        Raises
        ------
        ConfigError, DatasetError, ModelLoadingError
            Nothing was started; the message names the file, line or key at fault.
        TrainingError
            The loss is no number any more, or the output cannot be written.
        """
        from efficientai_toolkit._engine.core import core

        model, tokenizer = self._load()
        try:
            report = core.train_lora(model, tokenizer, self.config.to_json(), self._observe)
        finally:
            self.callback.close()
        return TrainingResult.from_report(report)

    def estimate_memory(self) -> Estimated:
        """Try two short rows to tell what :meth:`train` is going to take, and throw the result away.

        Raises
        ------
        ConfigError
            Not even one row at a time fits into ``memory_budget_gb``; or as :meth:`train`.
        DatasetError, ModelLoadingError
            As :meth:`train`.
        """
        from efficientai_toolkit._engine.core import core

        return Estimated(**json.loads(core.estimate_memory(*self._load(), self.config.to_json())))

    def _load(self) -> "tuple[Model, Tokenizer]":
        if self.model is None or self.tokenizer is None:
            from efficientai_toolkit.models.loading import load

            self.model, self.tokenizer = load(
                self.config.model_path, dtype=self.config.dtype, bits=self.config.bits
            )
        return self.model, self.tokenizer

    def _observe(self, text: str) -> None:
        self.callback.on(parse_event(text))
