"""Distillation runs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from efficientai_toolkit._base.aliases import suggest_key
from efficientai_toolkit._base.config import list_options
from efficientai_toolkit.callbacks.base import AnyCallback, Borrowed
from efficientai_toolkit.distill.config import DistillConfig
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora.config import TrainingConfig, new_run
from efficientai_toolkit.lora.result import TrainingResult
from efficientai_toolkit.lora.trainer import MLXTrainer
from efficientai_toolkit.study.folder import RUNS

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

_STAGE = "stage-"
"""Beginning of the names of the folders of models on the way."""

_REPORT = "training.json"
"""What a finished run leaves in its folder."""


class Distiller(MLXTrainer):
    """Trainer of a student, full or with adapters, towards a teacher.

    Parameters
    ----------
    training
        Configuration of the run; ``model_path`` is the student.
    config
        The teacher, and how the student learns from it.
    callback, model, tokenizer
        As for :class:`~efficientai_toolkit.lora.MLXTrainer`.
    show_progress
        Show a progress bar during downloads of the teacher.
    """

    kind: ClassVar[str] = "distill"

    def __init__(
        self,
        training: TrainingConfig | None = None,
        config: DistillConfig | None = None,
        *,
        callback: AnyCallback | None = None,
        model: "Model | None" = None,
        tokenizer: "Tokenizer | None" = None,
        show_progress: bool = True,
    ) -> None:
        from efficientai_toolkit._engine.core import core

        training = training or TrainingConfig()
        config = config or DistillConfig()
        core.distill.check(config.to_json(), training.to_json())
        self.distillation = config.with_defaults_filled(show_progress=show_progress)
        if training.output is None and not training.resume:
            training = training.with_values({"output": str(new_run(Path(RUNS), self.kind))})
        super().__init__(training, callback=callback, model=model, tokenizer=tokenizer)

    def train(self) -> TrainingResult:
        """Train the models on the way, if there are any, and then the student.

        As :meth:`MLXTrainer.train`. What was interrupted continues with ``resume``, at the model whose turn
        it was.
        """
        output = Path(str(self.config.output))
        for number, student in enumerate(self.distillation.through, 1):
            folder = output / f"{_STAGE}{number}"
            stage = {"model_path": student, "method": "full", "output": str(folder)}
            if not (self.config.resume and (folder / _REPORT).exists()):
                config = self._resumable(self.config.with_values(stage))
                one = Distiller(
                    config, self.distillation.with_values({"through": []}), callback=Borrowed(self.callback)
                )
                one.train()
            self.distillation = self.distillation.with_values({"teacher": str(folder)})
        if self.distillation.through:
            self.config = self._resumable(self.config)
        return super().train()

    def _resumable(self, config: TrainingConfig) -> TrainingConfig:
        """Return the configuration, which resumes only what has begun."""
        begun = any(Path(str(config.output)).glob("checkpoints/step-*"))
        return config.with_values({"resume": config.resume and begun})

    def _settings(self) -> dict[str, Any]:
        return self.config.to_dict() | self.distillation.to_dict()

    def _run(self, model: "Model", tokenizer: "Tokenizer", observe: Callable[[str], object]) -> str:
        from efficientai_toolkit._engine.core import core

        teacher = str(self.distillation.teacher)
        return core.distill.distill(
            model,
            tokenizer,
            teacher,
            core.models.load_tokenizer(teacher),
            self.config.to_json(),
            self.distillation.to_json(),
            observe,
        )


def distill(
    model_path: str | os.PathLike[str] | TrainingConfig | None = None,
    config: DistillConfig | None = None,
    *,
    callback: AnyCallback | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> TrainingResult:
    """Train a student to predict what a teacher with the same tokenizer predicts.

    >>> from efficientai_toolkit.distill import distill
    >>> result = distill("pruned", teacher="org/name", data="text.jsonl", method="full")  # doctest: +SKIP

    Parameters
    ----------
    model_path
        The student: a folder in Hugging Face format or hub id, ``None`` for the bundled model, or a whole
        :class:`~efficientai_toolkit.lora.TrainingConfig`.
    config
        A whole :class:`DistillConfig`.
    callback
        Receives the run and all events: a :class:`~efficientai_toolkit.callbacks.Callback` such as
        ``ProgressBar()`` or a :class:`~efficientai_toolkit.trackers.Tracker`, a function, or a list of them.
        By default events are ignored.
    show_progress
        Show a progress bar during downloads.
    **settings
        Fields of :class:`DistillConfig`: ``teacher``, ``loss``, ``on_policy``, …, and of
        :class:`~efficientai_toolkit.lora.TrainingConfig`: ``data``, ``output``, ``method``, ``lr``, …

    Returns
    -------
    TrainingResult
        Losses are divergences; there is no perplexity.

    Raises
    ------
    ConfigError, DatasetError, ModelLoadingError
        If a setting, the data, the student or the teacher cannot be used.
    TrainingError
        If the loss is not finite or the output cannot be written.
    """
    options = {
        config: {o.flag: o.name for o in list_options(config)} for config in (DistillConfig, TrainingConfig)
    }
    known = options[DistillConfig] | options[TrainingConfig]
    for name in settings:
        if name not in known.values():
            message = f"unknown key `{name}`{suggest_key(name, known)}"
            raise ConfigError(message)
    own = options[DistillConfig].values()
    of_config = {name: value for name, value in settings.items() if name in own}
    of_training = {name: value for name, value in settings.items() if name not in own}
    if isinstance(model_path, TrainingConfig):
        training = model_path.with_values(of_training)
    else:
        path = None if model_path is None else os.fspath(model_path)
        training = TrainingConfig().with_values({"model_path": path, **of_training})
    config = (config or DistillConfig()).with_values(of_config)
    return Distiller(training, config, callback=callback, show_progress=show_progress).train()
