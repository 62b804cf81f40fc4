"""Training of adapters and full models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from efficientai_toolkit.callbacks.base import AnyCallback, as_callback
from efficientai_toolkit.callbacks.training import Estimated
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.result import TrainingResult
from efficientai_toolkit.study.folder import release
from efficientai_toolkit.study.output import check_output
from efficientai_toolkit.study.record import Recorder

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


class MLXTrainer:
    """Trainer for adapters and full models.

    Parameters
    ----------
    config
        Configuration of the run; by default the bundled model is trained on the bundled data.
    callback
        Receives the run and all events: a :class:`~efficientai_toolkit.callbacks.Callback` such as
        ``ProgressBar()`` or a :class:`~efficientai_toolkit.trackers.Tracker`, a function, or a list of them.
        By default events are ignored.
    model, tokenizer
        Loaded model and tokenizer, to be used instead of ``config.model_path``. The model is trained in
        place and keeps its adapters.
    """

    kind: ClassVar[str] = "lora"
    """Kind of run in its record."""

    def __init__(
        self,
        config: TrainingConfig | None = None,
        *,
        callback: AnyCallback | None = None,
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
        """Train the model. Ctrl-C saves a checkpoint and raises ``KeyboardInterrupt``.

        Returns
        -------
        TrainingResult

        Raises
        ------
        ConfigError, DatasetError, ModelLoadingError
            If the run cannot start; the message names the file, line or key at fault.
        TrainingError
            If the loss is not finite or the output cannot be written.
        """
        output = Path(str(self.config.output))
        try:
            if self.model is None:
                check_output(self.config, "lora")
            model, tokenizer = self._load()
            recorder = Recorder(
                output,
                kind=self.kind,
                configuration=self._settings(),
                data=self.config.data_paths(),
                resume=self.config.resume,
                callback=self.callback,
            )
            with recorder:
                result = TrainingResult.from_report(self._run(model, tokenizer, recorder.observe))
                recorder.result = result.summary()
        finally:
            release(output)
        return result

    def estimate_memory(self) -> Estimated:
        """Estimate the memory use of :meth:`train` from a trial with two short rows.

        Raises
        ------
        ConfigError
            If a single row does not fit into ``memory_budget_gb``; otherwise as in :meth:`train`.
        DatasetError, ModelLoadingError
            As in :meth:`train`.
        """
        from efficientai_toolkit._engine.core import core

        return Estimated(**json.loads(core.lora.estimate_memory(*self._load(), self.config.to_json())))

    def _settings(self) -> dict[str, Any]:
        """Return the settings for the record."""
        return self.config.to_dict()

    def _run(self, model: "Model", tokenizer: "Tokenizer", observe: Callable[[str], object]) -> str:
        """Let the engine train, and return its report."""
        from efficientai_toolkit._engine.core import core

        return core.lora.train(model, tokenizer, self.config.to_json(), observe)

    def _load(self) -> "tuple[Model, Tokenizer]":
        if self.model is None or self.tokenizer is None:
            from efficientai_toolkit.models.loading import load

            self.model, self.tokenizer = load(
                self.config.model_path,
                dtype=self.config.dtype,
                bits=self.config.bits,
                chat_template_kwargs=self.config.chat_template_kwargs,
            )
        return self.model, self.tokenizer
