"""Contrastive fine-tuning."""

from pathlib import Path

from efficientai_toolkit import hub
from efficientai_toolkit.callbacks.base import AnyCallback, as_callback
from efficientai_toolkit.clip.config import ClipConfig
from efficientai_toolkit.clip.model import ClipModel
from efficientai_toolkit.clip.processor import ClipProcessor
from efficientai_toolkit.clip.result import ClipResult
from efficientai_toolkit.study.folder import release
from efficientai_toolkit.study.output import check_output
from efficientai_toolkit.study.record import Recorder


class ClipTrainer:
    """Trainer of image–text models.

    >>> result = ClipTrainer(ClipConfig(model_path="my_clip", data="pairs.jsonl")).train()  # doctest: +SKIP

    Parameters
    ----------
    config
        Configuration of the run.
    callback
        Receives the run and all events: a :class:`~efficientai_toolkit.callbacks.Callback` such as
        ``ProgressBar()`` or a :class:`~efficientai_toolkit.trackers.Tracker`, a function, or a list of them.
        By default events are ignored.

    Raises
    ------
    ConfigError, DatasetError
        If model or data are not given, or do not exist.
    """

    def __init__(self, config: ClipConfig, *, callback: AnyCallback | None = None) -> None:
        self.config = config.with_defaults_filled()
        self.callback = as_callback(callback)
        self.model: ClipModel | None = None
        """The trained model, after :meth:`train`."""
        self.processor: ClipProcessor | None = None

    def train(self) -> ClipResult:
        """Train the model. Ctrl-C saves a checkpoint and raises ``KeyboardInterrupt``.

        Returns
        -------
        ClipResult

        Raises
        ------
        ConfigError, DatasetError, ModelLoadingError
            If the run cannot start; the message names the file, line or key at fault.
        TrainingError
            If the loss is not finite or the output cannot be written.
        """
        from efficientai_toolkit._engine.core import core

        config = self.config
        output = Path(str(config.output))
        try:
            check_output(config, "clip")
            folder = hub.resolve(str(config.model_path), kind=hub.IMAGE_TEXT_MODEL)
            model, processor = core.clip.load(str(folder), config.dtype, config.image_size)
            recorder = Recorder(
                output,
                kind="clip",
                configuration=config.to_dict(),
                data=config.data_paths(),
                resume=config.resume,
                callback=self.callback,
            )
            with recorder:
                report = core.clip.train(model, config.to_json(), recorder.observe)
                result = ClipResult.from_report(report)
                recorder.result = result.summary()
            self.model, self.processor = ClipModel(model, processor), ClipProcessor(processor)
        finally:
            release(output)
        return result
