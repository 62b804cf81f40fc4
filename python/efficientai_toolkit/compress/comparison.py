"""Models measured beside a reference: perplexity, divergence and a paired test of answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.compress.candidates import NONE, Candidate
from efficientai_toolkit.compress.measurement import CandidateRow, describe_candidate, read_quality
from efficientai_toolkit.compress.quality import QualityConfig
from efficientai_toolkit.compress.timetable import Observer, Timetable
from efficientai_toolkit.compress.weights import read_weights
from efficientai_toolkit.exceptions import ConfigError, ToolkitError
from efficientai_toolkit.study.job import run_job


def compare(
    models: "Sequence[str | None]",
    config: QualityConfig | None = None,
    *,
    on_progress: Observer | None = None,
    show_progress: bool = True,
    **overrides: Any,
) -> list[CandidateRow]:
    """Measure models beside the first one, each in a process of its own.

    >>> import efficientai_toolkit as eat
    >>> rows = eat.compress.compare(["org/name", "small"], heldout="test.jsonl")  # doctest: +SKIP

    Parameters
    ----------
    models
        Folders in Hugging Face format or hub ids; ``None`` is the bundled model. The first is the reference.
    config
        What they are measured on.
    on_progress
        Called before each model.
    show_progress
        Show a progress bar during downloads.
    **overrides
        Fields of :class:`QualityConfig` that override ``config``.

    Returns
    -------
    list of CandidateRow
        One per model; one that cannot be measured has an ``error``.

    Raises
    ------
    ConfigError, DatasetError, ModelLoadingError
        If a setting, a text or a folder cannot be used.
    ToolkitError
        If the reference cannot be measured.
    """
    config = (config or QualityConfig()).with_values(overrides)
    config.check_texts()
    if not models:
        message = "`models` is empty: name the reference, and what is compared with it"
        raise ConfigError(message)
    folders = [hub.resolve(one or str(MODEL), show_progress=show_progress).absolute() for one in models]
    labels = [str(one) if one else "embedded" for one in models]
    timetable = Timetable(on_progress)
    timetable.plan(["quality"] * len(folders))
    measured = [
        _measure(folder, folders[0], config, timetable, label)
        for folder, label in zip(folders, labels, strict=True)
    ]
    reference = measured[0]
    if isinstance(reference, str):
        message = f"{labels[0]}: {reference}"
        raise ToolkitError(message)
    original = Candidate(pruning=NONE, recovery=NONE, quantization=NONE)
    rows: list[CandidateRow] = []
    for label, found in zip(labels, measured, strict=True):
        fields: dict[str, Any] = (
            {"error": found} if isinstance(found, str) else read_quality(found, reference)
        )
        row = describe_candidate(original, label, **fields)
        # The first one keeps the name of the original, which tables treat as such.
        rows.append(replace(row, variant=label) if rows else row)
    return rows


def _measure(
    folder: Path, reference: Path, config: QualityConfig, timetable: Timetable, label: str
) -> dict[str, Any] | str:
    """Return what is found, or why there is nothing."""
    from time import perf_counter

    request = {
        **config.to_dict(),
        "task": config.task and str(Path(config.task).expanduser()),
        "model": str(folder),
        "reference": str(reference),
    }
    start = perf_counter()
    with timetable.during("quality", label):
        job = run_job(f"{__package__}.stages:measure_quality", request)
    timetable.add("quality", perf_counter() - start)
    if job.error is not None:
        return job.error
    found: dict[str, Any] = job.value
    return found | {"size": read_weights(folder).size}
