"""Hyperparameter search for training runs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from efficientai_toolkit.callbacks.base import AnyCallback, as_callback
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.optimization.config import LABELS, OBJECTIVES, OptimizationConfig
from efficientai_toolkit.lora.optimization.space import SearchSpace
from efficientai_toolkit.lora.runner import Runner
from efficientai_toolkit.study.folder import RUNS, new_run, release
from efficientai_toolkit.study.search import Search, Trial, check_installed
from efficientai_toolkit.study.search import SearchResult as OptimizationResult


def optimize(
    training: TrainingConfig | None = None,
    config: OptimizationConfig | None = None,
    *,
    space: SearchSpace | Mapping[str, object] | None = None,
    on_trial: Callable[[Trial], object] | None = None,
    callback: AnyCallback | None = None,
    **overrides: Any,
) -> OptimizationResult:
    """Search for the hyperparameters that minimize the validation loss or other objectives.

    A run that diverges or runs out of memory counts as failed, and the search continues. After Ctrl-C the
    search can be continued with ``training.resume``; the run that was interrupted is repeated.

    Parameters
    ----------
    training
        Configuration of the run. ``output``, ``resume`` and ``overwrite`` apply to the search, ``seed`` to
        the search and its runs.
    config
        Configuration of the search.
    space
        Search space, or the entries of a search-space file; overrides ``config.search_space``.
    on_trial
        Called with each finished trial.
    callback
        Receives the search as a run, and in between the run of each trial with its events: a
        :class:`~efficientai_toolkit.trackers.Tracker`, another callback, or a list of them.
    **overrides
        Fields of :class:`OptimizationConfig` that override ``config``.

    Returns
    -------
    OptimizationResult

    Raises
    ------
    ConfigError
        If a setting or an entry of the search space is invalid; the message names the key.
    DependencyError
        If an optional dependency is missing; the message contains the installation command.
    TrainingError
        If the folder contains another search or all runs failed.
    """
    config = (config or OptimizationConfig()).with_values(overrides)
    check_installed()
    tried = _space(config, space)
    receiver = as_callback(callback)
    given = training or TrainingConfig()
    if given.output is None and not given.resume:
        given = replace(given, output=str(new_run(Path(RUNS), "search")))
    try:
        base = given.with_defaults_filled()
        search = Search(
            "lora",
            given=given,
            base=base,
            config=config,
            space=tried,
            objectives=OBJECTIVES,
            labels=LABELS,
            runner=Runner(evaluations=config.evaluations, callback=receiver),
            data=base.data_paths(),
            on_trial=on_trial,
            callback=receiver,
        )
        return search.run()
    finally:
        release(Path(str(given.output)))


def _space(config: OptimizationConfig, space: SearchSpace | Mapping[str, object] | None) -> SearchSpace:
    if space is not None:
        return space if isinstance(space, SearchSpace) else SearchSpace.from_mapping(space)
    return (
        SearchSpace.default() if config.search_space is None else SearchSpace.from_file(config.search_space)
    )
