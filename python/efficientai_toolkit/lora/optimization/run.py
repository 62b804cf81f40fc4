"""From a run and a search space to the best settings."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.optimization.config import LABELS, OBJECTIVES, OptimizationConfig
from efficientai_toolkit.lora.optimization.space import SearchSpace
from efficientai_toolkit.lora.runner import Runner
from efficientai_toolkit.study.folder import RUNS, new_run
from efficientai_toolkit.study.search import Search, Trial, check_installed
from efficientai_toolkit.study.search import SearchResult as OptimizationResult


def optimize(
    training: TrainingConfig | None = None,
    config: OptimizationConfig | None = None,
    *,
    space: SearchSpace | Mapping[str, object] | None = None,
    on_trial: Callable[[Trial], object] | None = None,
    **overrides: Any,
) -> OptimizationResult:
    """Search for settings that make the validation loss (or more) small.

    A run whose loss is no number any more, or that does not fit into memory, counts as failed, with its
    reason; the search goes on. Ctrl-C keeps the search; ``training.resume`` goes on with the one in
    ``training.output``.

    Parameters
    ----------
    training
        The run to improve. ``output`` is the folder of the search, ``seed`` that of the runs and of the
        search, ``resume`` and ``overwrite`` concern the search.
    config
        How to search.
    space
        What to try, instead of ``config.search_space``: a :class:`SearchSpace` or the entries of a file.
    on_trial
        Receives each run when it has ended.
    **overrides
        Fields of :class:`OptimizationConfig` that win over ``config``.

    Returns
    -------
    OptimizationResult

    Raises
    ------
    ConfigError
        A setting or an entry of the space is impossible; the key is named.
    DependencyError
        A library is missing; the message has the command that installs it.
    TrainingError
        The folder holds another search, or no run has succeeded.
    """
    config = (config or OptimizationConfig()).with_values(overrides)
    config.check()
    check_installed()
    tried = _space(config, space)
    given = training or TrainingConfig()
    if given.output is None and not given.resume:
        given = replace(given, output=str(new_run(Path(RUNS), "search")))
    base = given.with_defaults_filled()
    search = Search(
        "lora",
        given=given,
        base=base,
        config=config,
        space=tried,
        objectives=OBJECTIVES,
        labels=LABELS,
        runner=Runner(evaluations=config.evaluations),
        data=base.data_paths(),
        on_trial=on_trial,
    )
    return search.run()


def _space(config: OptimizationConfig, space: SearchSpace | Mapping[str, object] | None) -> SearchSpace:
    if space is not None:
        return space if isinstance(space, SearchSpace) else SearchSpace.from_mapping(space)
    return (
        SearchSpace.default() if config.search_space is None else SearchSpace.from_file(config.search_space)
    )
