"""From a run and a search space to the best settings."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, cast

from efficientai_toolkit._base.extras import require
from efficientai_toolkit.exceptions import ConfigError, ToolkitError, TrainingError
from efficientai_toolkit.lora.config import RUNS, TrainingConfig, new_run
from efficientai_toolkit.lora.optimization.config import OBJECTIVES, OptimizationConfig
from efficientai_toolkit.lora.result import TrainingResult
from efficientai_toolkit.lora.runner import Runner
from efficientai_toolkit.study.folder import write_settings, write_trials
from efficientai_toolkit.study.space import SearchSpace

STUDY = "study.db"
"""Optuna's SQLite storage in the folder of a search."""

_NAME = "lora"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run of a search."""

    number: int
    state: Literal["complete", "pruned", "failed"]
    settings: dict[str, Any]
    """What was drawn."""
    values: dict[str, float] | None
    """By objective; ``None`` unless complete."""
    reason: str | None
    """Why it failed."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizationResult:
    """What a search found."""

    output: Path
    """Folder with ``best.yaml``, ``trials.json``, ``study.db``, plots, and a folder per run."""
    best: int
    """Number of the run with the smallest first objective."""
    best_settings: dict[str, Any]
    """All settings of that run that differ from the defaults, as in ``best.yaml``."""
    best_values: dict[str, float]
    front: list[int]
    """Runs that no other run beats in every objective; with one objective, the best."""
    importance: dict[str, float]
    """Share of the first objective's variance that a setting explains (fANOVA); empty with too few runs."""
    trials: list[Trial]


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
    optuna = require("optuna", extra="optimize", purpose="the search for settings")
    for module in ("sklearn", "matplotlib"):
        require(module, extra="optimize", purpose="the search for settings")
    search = _Search(optuna, training or TrainingConfig(), config, _space(config, space), on_trial)
    return search.run()


def _space(config: OptimizationConfig, space: SearchSpace | Mapping[str, object] | None) -> SearchSpace:
    if space is not None:
        return space if isinstance(space, SearchSpace) else SearchSpace.from_mapping(space)
    return (
        SearchSpace.default() if config.search_space is None else SearchSpace.from_file(config.search_space)
    )


class _Search:
    def __init__(
        self,
        optuna: Any,
        training: TrainingConfig,
        config: OptimizationConfig,
        space: SearchSpace,
        on_trial: Callable[[Trial], object] | None,
    ) -> None:
        self.optuna = optuna
        self.config = config
        self.space = space
        self.on_trial = on_trial
        if training.output is None and not training.resume:
            training = replace(training, output=str(new_run(Path(RUNS), "search")))
        self.given = training
        self.base = training.with_defaults_filled()
        self.output = Path(str(self.base.output))
        self.runner = Runner(evaluations=config.evaluations)

    def run(self) -> OptimizationResult:
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        # A wrong model or data set would fail every run alike; here it is raised as it is.
        self.runner.count_rows(self.space.apply(self.base, {}))
        study = self._study()
        left = self.config.trials - len(study.get_trials(deepcopy=False))
        left += len(study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.WAITING,)))
        timeout = None if self.config.timeout_minutes is None else 60 * self.config.timeout_minutes
        if left > 0:
            study.optimize(
                self._objective,
                n_trials=left,
                timeout=timeout,
                catch=(ToolkitError,),
                callbacks=[self._tell],
            )
        return self._result(study)

    def _study(self) -> Any:
        path = self.output / STUDY
        if path.exists() and self.base.overwrite and not self.base.resume:
            shutil.rmtree(self.output / "trials", ignore_errors=True)
            path.unlink()
        elif path.exists() and not self.base.resume:
            message = f"{self.output} holds a search; choose another output, or give resume or overwrite"
            raise TrainingError(message)
        elif self.base.resume and not path.exists():
            message = f"{self.output} holds no search to resume: there is no {STUDY}"
            raise TrainingError(message)
        self.output.mkdir(parents=True, exist_ok=True)
        study = self.optuna.create_study(
            study_name=_NAME,
            storage=f"sqlite:///{path}",
            sampler=self._sampler(seed=self.base.seed),
            pruner=self._pruner(),
            directions=["minimize"] * len(self.config.objectives),
            load_if_exists=True,
        )
        self._check_same(study)
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state is self.optuna.trial.TrialState.RUNNING:
                # Left over from a process that was killed.
                study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        if trials:
            study.sampler = self._sampler(seed=self.base.seed + len(trials))
        elif (first := self.space.first(self.base)) is not None:
            study.enqueue_trial(first)
        return study

    def _check_same(self, study: Any) -> None:
        """Runs of another space, model or data would be compared with these."""
        base = {k: v for k, v in self.base.to_dict().items() if k not in {"output", "resume", "overwrite"}}
        described = {"objectives": self.config.objectives, "space": self.space.to_dict(), "training": base}
        # Through JSON, as the storage returns it.
        described = json.loads(json.dumps(described))
        stored = study.user_attrs.get("search")
        if stored is None:
            study.set_user_attr("search", described)
        elif stored != described:
            changed = next(key for key in described if stored.get(key) != described[key])
            message = (
                f"the search in {self.output} was begun with another {changed}: {stored.get(changed)}; "
                "resume it with the same, or choose another output"
            )
            raise ConfigError(message)

    def _sampler(self, *, seed: int) -> Any:
        if self.config.sampler == "gp":
            from efficientai_toolkit.study.gaussian import GaussianProcessSampler

            return GaussianProcessSampler(seed=seed)
        if self.config.sampler == "random":
            return self.optuna.samplers.RandomSampler(seed=seed)
        return self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)

    def _pruner(self) -> Any:
        pruners, evaluations = self.optuna.pruners, self.config.evaluations
        if self.config.pruner == "none" or len(self.config.objectives) > 1:
            return pruners.NopPruner()
        if self.config.pruner == "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=evaluations, reduction_factor=3)
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)

    def _objective(self, trial: Any) -> tuple[float, ...]:
        started = perf_counter()
        drawn = self.space.suggest(trial)
        try:
            result = self._train(trial, drawn)
        except ToolkitError as error:
            trial.set_user_attr("reason", " ".join(str(error).split()))
            # Whatever went wrong may have left its mark on the model.
            self.runner.forget()
            raise
        except KeyboardInterrupt:
            trial.set_user_attr("reason", "interrupted")
            raise
        finally:
            trial.set_user_attr("seconds", perf_counter() - started)
            # Nothing resumes a single run of a search.
            shutil.rmtree(self._folder(trial.number) / "checkpoints", ignore_errors=True)
        return tuple(OBJECTIVES[name](result) for name in self.config.objectives)

    def _train(self, trial: Any, drawn: Mapping[str, object]) -> TrainingResult:
        def report(place: int, loss: float) -> None:
            # A pruner looks at one value.
            if len(self.config.objectives) == 1:
                # Runs of different lengths are compared at the same share of their steps.
                trial.report(loss, place)
                if place < self.config.evaluations and trial.should_prune():
                    raise self.optuna.TrialPruned

        return self.runner.train(self.space.apply(self.base, drawn), self._folder(trial.number), report)

    def _folder(self, number: int) -> Path:
        return self.output / "trials" / f"{number:04}"

    def _tell(self, _study: Any, trial: Any) -> None:
        if self.on_trial is not None:
            self.on_trial(self._trial(trial))

    def _trial(self, trial: Any) -> Trial:
        states = self.optuna.trial.TrialState
        state = {states.COMPLETE: "complete", states.PRUNED: "pruned"}.get(trial.state, "failed")
        values = None
        if trial.state is states.COMPLETE:
            values = dict(zip(self.config.objectives, trial.values, strict=True))
        return Trial(
            number=trial.number,
            state=cast("Any", state),
            settings=trial.params,
            values=values,
            reason=trial.user_attrs.get("reason", "the process ended") if state == "failed" else None,
            seconds=trial.user_attrs.get("seconds", 0.0),
        )

    def _result(self, study: Any) -> OptimizationResult:
        trials = [
            self._trial(trial) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()
        ]
        complete = [trial for trial in trials if trial.values is not None]
        if not complete:
            reasons = [trial.reason for trial in trials if trial.reason]
            message = f"none of {len(trials)} runs succeeded" + (
                f"; the first: {reasons[0]}" if reasons else ""
            )
            raise TrainingError(message)
        front = sorted(trial.number for trial in study.best_trials)
        first = self.config.objectives[0]
        best = min(
            (trial for trial in complete if trial.number in front), key=lambda t: (t.values or {})[first]
        )
        settings = write_settings(self.output / "best.yaml", self.space.apply(self.given, best.settings))
        result = OptimizationResult(
            output=self.output,
            best=best.number,
            best_settings=settings,
            best_values=best.values or {},
            front=front,
            importance=self._importance(study, complete),
            trials=trials,
        )
        write_trials(result)
        from efficientai_toolkit.study.plots import draw

        draw(result, self.config.objectives)
        return result

    def _importance(self, study: Any, complete: list[Trial]) -> dict[str, float]:
        """Of settings that had more than one value, largest first."""
        names = [n for n in self.space.searched if len({str(t.settings[n]) for t in complete}) > 1]
        if len(complete) <= len(self.space.searched) or not names:
            return {}
        values = {next(iter((trial.values or {}).values())) for trial in complete}
        if len(values) == 1:
            return {}
        evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=self.base.seed)
        shares = self.optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=names, target=_first_value
        )
        return {name: float(share) for name, share in shares.items()}


def _first_value(trial: Any) -> float:
    return float(trial.values[0])
