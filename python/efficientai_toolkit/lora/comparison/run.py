"""Comparison of fine-tuning methods."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import refuse_link, write_json
from efficientai_toolkit.callbacks.base import AnyCallback, Borrowed, Callback, as_callback
from efficientai_toolkit.callbacks.events import Event, parse_event
from efficientai_toolkit.exceptions import DatasetError
from efficientai_toolkit.lora.comparison.config import ComparisonConfig
from efficientai_toolkit.lora.comparison.measurement import Measurement
from efficientai_toolkit.lora.comparison.recommendation import recommend
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.study.folder import (
    RESULT,
    RUNS,
    check_unused,
    load_result,
    new_run,
    release,
    save_result,
)
from efficientai_toolkit.study.follow import Follower
from efficientai_toolkit.study.job import run_job
from efficientai_toolkit.study.plots import draw_bars
from efficientai_toolkit.study.recommend import Recommendation
from efficientai_toolkit.study.record import Recorder
from efficientai_toolkit.study.table import write_csv

REPORT = "comparison.json"

_JOB = "efficientai_toolkit.lora.comparison.measurement:train"

_PANELS = {
    "loss_after": "validation loss, nats",
    "seconds": "training time, s",
    "peak_memory_gb": "peak memory, GB",
}
"""Plotted quantities and their labels."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Comparison(Displayed):
    """Result of :func:`compare`."""

    output: Path
    """Folder with ``comparison.json``, ``.csv`` and ``.png``, and a folder per method."""
    rows: list[Measurement]
    """Measurements in the order of ``methods``."""
    recommendation: Recommendation


def compare(
    training: TrainingConfig | None = None,
    config: ComparisonConfig | None = None,
    *,
    on_event: Callable[[str, Event], object] | None = None,
    on_result: Callable[[Measurement], object] | None = None,
    callback: AnyCallback | None = None,
    **overrides: Any,
) -> Comparison:
    """Fine-tune a model with several methods and recommend one.

    Each method trains in its own process, on the same rows in the same order, for the same number of steps.
    A method that fails, or whose settings are refused, is a row with its ``error``; the others run.

    Parameters
    ----------
    training
        Configuration of the run. ``output`` is the folder of the comparison; ``resume`` keeps finished
        methods, ``overwrite`` replaces them.
    config
        Configuration of the comparison.
    on_event
        Called with the method and each event of its run.
    on_result
        Called with the measurements of each finished method, first of all with those that are refused.
    callback
        Receives the comparison as a run, and in between the run of each method with its events: a
        :class:`~efficientai_toolkit.trackers.Tracker`, another callback, or a list of them.
    **overrides
        Fields of :class:`ComparisonConfig` that override ``config``.

    Returns
    -------
    Comparison

    Raises
    ------
    ConfigError
        If a setting is invalid, or refused by every method; the message names the key.
    DatasetError
        If there are no data or no validation rows.
    TrainingError
        If the folder contains another comparison.
    """
    config = (config or ComparisonConfig()).with_values(overrides)
    if config.plots:
        require("matplotlib", extra="plots", purpose="`plots` (switch it off, or install it)")
    training = training or TrainingConfig()
    if training.output is None and not training.resume:
        training = replace(training, output=str(new_run(Path(RUNS), "comparison")))
    try:
        base = training.with_defaults_filled()
        output = Path(str(base.output))
        check_unused(output, REPORT, what="a comparison", resume=base.resume, overwrite=base.overwrite)
        runs = config.runs(base)
        receiver = as_callback(callback)
        recorder = Recorder(
            output,
            kind="comparison",
            configuration={"comparison": config.to_dict(), "training": base.to_dict()},
            data=base.data_paths(),
            resume=base.resume,
            callback=receiver,
        )
        with recorder:
            recorder.start()
            rows = _compare(
                runs,
                base,
                recorder=recorder,
                callback=Borrowed(receiver),
                on_event=on_event,
                on_result=on_result,
            )
            recorder.result = {f"{row.method}.{name}": getattr(row, name) for row in rows for name in _PANELS}
    finally:
        release(Path(str(training.output)))
    comparison = Comparison(output=output, rows=rows, recommendation=recommend(rows, config))
    write_csv(output / "comparison.csv", Measurement, rows)
    write_json(output / REPORT, asdict(comparison))
    done = [row for row in rows if row.error is None]
    if config.plots and done:
        panels = {label: [getattr(row, name) for row in done] for name, label in _PANELS.items()}
        draw_bars(output / "comparison.png", [row.method for row in done], panels)
    return comparison


def _compare(
    runs: Mapping[str, TrainingConfig | str],
    base: TrainingConfig,
    *,
    recorder: Recorder,
    callback: Callback,
    on_event: Callable[[str, Event], object] | None,
    on_result: Callable[[Measurement], object] | None,
) -> list[Measurement]:
    """Measure all methods; those that are refused have a reason in place of a configuration."""
    results = {
        method: Measurement(method=method, error=reason)
        for method, reason in runs.items()
        if isinstance(reason, str)
    }
    if on_result is not None:
        for refused in results.values():
            on_result(refused)
    for place, (method, changed) in enumerate(runs.items(), 1):
        if isinstance(changed, str):
            continue
        run = replace(changed, output=str(Path(str(base.output)) / method), resume=False, overwrite=True)
        results[method] = _measure(method, run, callback, on_event, resume=base.resume)
        recorder.log(place, asdict(results[method]))
        if on_result is not None:
            on_result(results[method])
    return [results[method] for method in runs]


def _measure(
    method: str,
    run: TrainingConfig,
    callback: Callback,
    on_event: Callable[[str, Event], object] | None,
    *,
    resume: bool,
) -> Measurement:
    """Train in a separate process, or return the result of an earlier comparison."""
    folder = Path(str(run.output))
    request = {"method": method, "config": run.to_dict()}
    kept = load_result(folder, request) if resume else None
    if kept is not None and kept.keys() == {f.name for f in fields(Measurement)}:
        return Measurement(**kept)
    refuse_link(folder)
    (folder / RESULT).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)

    with Follower(folder, callback) as follower:

        def tell(values: dict[str, Any]) -> None:
            event = parse_event(json.dumps(values))
            follower.on(event)
            if on_event is not None:
                on_event(method, event)

        job = run_job(_JOB, request, on_event=tell)
        follower.error = job.error or follower.error
    if job.error is not None or job.peak_memory is None:
        outcome = Measurement(method=method, error=job.error)
    else:
        outcome = replace(Measurement(**job.value), process_memory_gb=job.peak_memory / 1e9)
    if outcome.error is None and outcome.loss_after is None:
        message = f"{run.data}: there are no validation rows to compare methods on; give at least two rows"
        raise DatasetError(message)
    save_result(folder, request, asdict(outcome))
    return outcome
