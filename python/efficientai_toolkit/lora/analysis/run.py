"""Selection of a rank for each layer."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import write_json
from efficientai_toolkit.callbacks.base import AnyCallback
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora.analysis.allocation import Layer
from efficientai_toolkit.lora.analysis.candidates import Candidate, propose_candidates, propose_references
from efficientai_toolkit.lora.analysis.config import AnalysisConfig
from efficientai_toolkit.lora.analysis.confirm import confirm
from efficientai_toolkit.lora.analysis.forecast import Forecast
from efficientai_toolkit.lora.analysis.halving import halve, plan_steps
from efficientai_toolkit.lora.analysis.information import bound_mean_rank, estimate_information
from efficientai_toolkit.lora.analysis.short_run import ShortRun, ShortRunner
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.runner import Runner
from efficientai_toolkit.study.folder import (
    RUNS,
    check_unused,
    new_run,
    release,
    write_settings,
)
from efficientai_toolkit.study.record import Recorder

REPORT = "analysis.json"
SETTINGS = "ranked.yaml"

_CONFIRMED = 2
"""Least number of runs of :func:`~efficientai_toolkit.lora.analysis.confirm.confirm`."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Analysis(Displayed):
    """Result of :func:`analyze`."""

    output: Path
    """Folder with ``ranked.yaml``, ``analysis.json`` and ``ranks.png``."""
    data: dict[str, Any]
    """Data statistics of the training split."""
    information_bits: float
    """Upper bound on the information in the data."""
    layers: list[Layer]
    """Gradient spectra in the order of the model."""
    runs: list[ShortRun]
    """All short runs."""
    forecasts: list[Forecast]
    """Forecasts of the best candidate of each budget."""
    references: list[Forecast]
    """Forecasts of the given run with common uniform ranks."""
    choice: Candidate
    settings: dict[str, Any]
    """Settings with the chosen ranks that differ from the defaults, as in ``ranked.yaml``."""


def analyze(
    training: TrainingConfig | None = None,
    config: AnalysisConfig | None = None,
    *,
    on_run: Callable[[ShortRun], object] | None = None,
    on_plan: Callable[[list[int]], object] | None = None,
    callback: AnyCallback | None = None,
    **overrides: Any,
) -> Analysis:
    """Select a rank for each layer from data and gradients.

    1. The information in the training data bounds the number of useful parameters
       (:func:`~efficientai_toolkit.lora.analysis.information.estimate_information`).
    2. The singular values of each layer's gradient, up to rank ``config.width``, determine where ranks
       capture the most energy (:func:`~efficientai_toolkit.lora.analysis.allocate`).
    3. Short runs compare budgets, spectral and uniform allocations, three scales and common uniform ranks.
       The candidate with the fewest parameters wins whose final loss is forecast to be within
       ``config.tolerance`` % of the best uniform rank
       (:func:`~efficientai_toolkit.lora.analysis.forecast.forecast`), confirmed by longer runs
       (:func:`~efficientai_toolkit.lora.analysis.confirm.confirm`).

    Parameters
    ----------
    training
        Configuration of the run. ``output`` and ``overwrite`` apply to the analysis; ``lora_rank`` and
        ``lora_alpha`` determine the adapter scale.
    config
        Configuration of the analysis.
    on_run
        Called with each finished short run.
    on_plan
        Called before the first one with the steps of all short runs, as far as they can be foreseen: the last
        ones depend on the results.
    callback
        Receives the analysis as a run, whose parts are the short runs: a
        :class:`~efficientai_toolkit.trackers.Tracker`, another callback, or a list of them.
    **overrides
        Fields of :class:`AnalysisConfig` that override ``config``.

    Returns
    -------
    Analysis

    Raises
    ------
    ConfigError
        If a setting is invalid or there are no validation data; the message names the key.
    DatasetError
        If the data cannot be read.
    TrainingError
        If the folder contains another analysis or all short runs failed.
    """
    config = (config or AnalysisConfig()).with_values(overrides)
    if config.plots:
        require("matplotlib", extra="plots", purpose="`plots` (switch it off, or install it)")
    given = training or TrainingConfig()
    _check(given)
    if given.output is None:
        given = replace(given, output=str(new_run(Path(RUNS), "analysis")))
    runner = Runner(evaluations=1)
    try:
        base = given.with_defaults_filled()
        output = Path(str(base.output))
        check_unused(output, REPORT, what="an analysis", resume=None, overwrite=base.overwrite)
        runner.check(base)
        recorder = Recorder(
            output,
            kind="analysis",
            configuration={"analysis": config.to_dict(), "training": base.to_dict()},
            data=base.data_paths(),
            callback=callback,
        )
        with recorder:
            recorder.start()
            analysis = _analyze(
                given, base, config, runner=runner, recorder=recorder, on_run=on_run, on_plan=on_plan
            )
            recorder.result = {
                "parameters": analysis.choice.parameters,
                "mean_rank": analysis.choice.mean_rank,
                "information_bits": analysis.information_bits,
                "short_runs": len(analysis.runs),
            }
    finally:
        release(Path(str(given.output)))
    return analysis


def _analyze(
    given: TrainingConfig,
    base: TrainingConfig,
    config: AnalysisConfig,
    *,
    runner: Runner,
    recorder: Recorder,
    on_run: Callable[[ShortRun], object] | None,
    on_plan: Callable[[list[int]], object] | None,
) -> Analysis:
    output = Path(str(base.output))
    train, layers = _look(runner, base, config)
    per_rank = sum(layer.cost for layer in layers)
    budgets = propose_candidates(layers, base, bound_mean_rank(train, per_rank, config.max_rank))
    runs: list[ShortRun] = []

    def tell(run: ShortRun) -> None:
        runs.append(run)
        size = {"parameters": run.candidate.parameters, "mean_rank": run.candidate.mean_rank}
        recorder.log(len(runs), {**asdict(run), **size})
        if on_run is not None:
            on_run(run)

    shorts = ShortRunner(base, runner, output / "short-run", tell)
    usual = propose_references(layers, base)
    if on_plan is not None:
        rounds = plan_steps(budgets, config.steps)
        # The last two rounds are run by the references too, and at least two candidates are confirmed.
        compared = [steps for round_ in rounds[-2:] for steps in round_[:1] * len(usual)]
        longest, whole = rounds[-1][0], runner.steps(base)
        longer = [min(2 * longest, whole)] * _CONFIRMED if whole > longest else []
        on_plan([*(steps for round_ in rounds for steps in round_), *compared, *longer])
    last = halve(budgets, shorts.run, config.steps)
    # Each of them too has a curve of two points.
    for number, steps in sorted({(run.round, run.steps) for run in runs})[-2:]:
        for candidate in usual:
            shorts.run(candidate, number, steps)
    outcome = confirm(
        runs,
        [run.candidate for run in last],
        usual,
        shorts.run,
        whole=runner.steps(base),
        tolerance=config.tolerance,
    )
    settings = write_settings(output / SETTINGS, outcome.choice.apply(given))
    analysis = Analysis(
        output=output,
        data=train,
        information_bits=estimate_information(train),
        layers=layers,
        runs=runs,
        forecasts=outcome.forecasts,
        references=outcome.references,
        choice=outcome.choice,
        settings=settings,
    )
    if config.plots:
        from efficientai_toolkit.lora.analysis.plots import draw

        draw(output / "ranks.png", layers, outcome.choice, outcome.forecasts, outcome.references)
    # The last of all: a folder with a report is complete.
    write_json(output / REPORT, asdict(analysis))
    return analysis


def _check(training: TrainingConfig) -> None:
    if training.method not in {"lora", "dora"}:
        message = f"`method` is {training.method}, but ranks by layer are for lora and dora"
        raise ConfigError(message)
    if training.objective != "sft":
        message = f"`objective` is {training.objective}, but ranks by layer are found for sft"
        raise ConfigError(message)
    for name in ("init_adapter", "rank_pattern"):
        if getattr(training, name) is not None:
            message = f"`{name}` says what the ranks are; an analysis finds them, so leave it out"
            raise ConfigError(message)
    if training.resume:
        message = "`resume` is for runs and searches; an analysis cannot be resumed"
        raise ConfigError(message)


def _look(runner: Runner, base: TrainingConfig, config: AnalysisConfig) -> tuple[dict[str, Any], list[Layer]]:
    """Return data statistics and the gradient spectrum of each layer."""
    from efficientai_toolkit._engine.core import core

    model, tokenizer = runner.load(base)
    probe = json.dumps({"batches": config.batches, "width": config.width})
    report = json.loads(core.lora.analyze(model, tokenizer, base.to_json(), probe))
    return report["data"]["train"], [Layer.of(entry) for entry in report["layers"]]
