"""Data-set quantization: a few rows that stand for all."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.callbacks.base import Callback, as_callback
from efficientai_toolkit.callbacks.events import Event, parse_event
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.study.folder import RUNS, new_run, release
from efficientai_toolkit.study.output import check_output


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SubsetConfig(Config):
    """Configuration of :func:`select_subset`."""

    model_path: str | None = setting(
        None,
        "model whose hidden states tell which rows are alike: folder in Hugging Face format, or hub id "
        "org/name[@revision] (default: the embedded model)",
    )
    data: str | None = setting(None, "data file, or folder with a training split, in any format of training")
    output: str | None = setting(None, "output folder (default: a new numbered one under runs/)")
    fraction: float = setting(0.25, "fraction of the rows to choose")
    format: Literal["jsonl", "tokens"] = setting(
        "jsonl",
        "how rows are stored: as they are, one JSON object per line, or as packed token ids, which models "
        "with the same tokenizer read",
    )
    columns: list[str] | None = setting(
        None,
        "column mapping of the data, such as prompt=question,completion=answer (default: the standard names)",
        separator=",",
    )
    seed: int = setting(0, "random seed of the parts into which more than 4096 rows are divided")
    overwrite: bool = setting(False, "replace the rows in the output folder")

    def check(self) -> None:
        """Let the engine check the values."""
        # The defaults are valid, and loading the engine takes time.
        if any(self._displayed()):
            from efficientai_toolkit._engine.core import core

            core.subset.check(self.to_json())

    def with_defaults_filled(self) -> "SubsetConfig":
        """Return a copy with model and output folder filled in.

        Without ``output``, a new folder is created, which reserves its name.

        Raises
        ------
        ConfigError
            If ``data`` is missing.
        """
        if self.data is None:
            message = "`data` is missing: give the file or folder to choose from (--data FILE)"
            raise ConfigError(message)
        return replace(
            self,
            model_path=self.model_path or str(MODEL),
            data=str(Path(self.data).expanduser()),
            output=str(
                new_run(Path(RUNS), "subset") if self.output is None else Path(self.output).expanduser()
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SubsetResult(Displayed):
    """Result of :func:`select_subset`."""

    output: Path
    """File of the chosen rows."""
    rows: int
    """Number of rows of the data."""
    chosen: int
    """Number of chosen rows."""
    tokens: int
    """Number of tokens of the data."""
    chosen_tokens: int
    """Number of tokens of the chosen rows."""
    coverage: float
    """Mean over all rows of the cosine similarity to the most similar of the chosen ones."""
    seconds: float
    """Seconds without loading."""


def select_subset(
    data: str | os.PathLike[str] | SubsetConfig,
    *,
    callback: Callback | Callable[[Event], object] | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> SubsetResult:
    """Choose rows of a data set that stand for all of them, and store them for training or calibration.

    Rows are alike if the means of their hidden states point away from the mean of all in similar directions.
    The choice maximizes, greedily, the sum over all rows of the similarity to the most similar chosen one
    (facility location).

    >>> from efficientai_toolkit.quantize import select_subset
    >>> result = select_subset("data.jsonl", fraction=0.25, output="quarter")  # doctest: +SKIP

    Parameters
    ----------
    data
        File or folder of data in any format of training, or a whole :class:`SubsetConfig`. Validation and
        test rows of a folder are copied.
    callback
        Receives all events: a :class:`~efficientai_toolkit.callbacks.Callback` such as ``ProgressBar()``, or
        a function. By default events are ignored.
    show_progress
        Show a progress bar during downloads.
    **settings
        Fields of :class:`SubsetConfig`: ``model_path``, ``fraction``, ``format``, ``output``, …

    Raises
    ------
    ConfigError, DatasetError, ModelLoadingError
        If a setting, the data or the model cannot be used; nothing is written.
    TrainingError
        If the output folder holds other rows or cannot be written.
    """
    from efficientai_toolkit._engine.core import core
    from efficientai_toolkit.models.loading import load

    if isinstance(data, SubsetConfig):
        config = data.with_values(settings)
    else:
        config = SubsetConfig(data=os.fspath(data), **settings)
    config = config.with_defaults_filled()
    receiver = as_callback(callback)

    def observe(text: str) -> None:
        receiver.on(parse_event(text))

    try:
        check_output(config, "subset")
        model, tokenizer = load(config.model_path, show_progress=show_progress)
        report = json.loads(core.subset.select(model, tokenizer, config.to_json(), observe))
    finally:
        receiver.close()
        release(Path(str(config.output)))
    output = Path(report.pop("output"))
    return SubsetResult(output=output, **report)
