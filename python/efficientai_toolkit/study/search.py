"""Hyperparameter search over any configuration, with Optuna."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

from efficientai_toolkit._base.config import Config
from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import refuse_link, write_json
from efficientai_toolkit.callbacks.base import AnyCallback
from efficientai_toolkit.exceptions import ConfigError, ToolkitError, TrainingError
from efficientai_toolkit.study import plots
from efficientai_toolkit.study.folder import FOLDER_SETTINGS, check_unused, write_settings
from efficientai_toolkit.study.importance import compute_importance
from efficientai_toolkit.study.record import Recorder
from efficientai_toolkit.study.settings import SearchConfig
from efficientai_toolkit.study.space import SearchSpace
from efficientai_toolkit.study.storage import (
    INTERRUPTED,
    STUDY,
    check_files,
    is_storage_error,
    list_ended,
    open_storage,
    repeat_unfinished,
)

_TRIALS = "trials"
"""Subfolder with a folder per trial."""

C = TypeVar("C", bound=Config)
R = TypeVar("R")
C_contra = TypeVar("C_contra", bound=Config, contravariant=True)
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Trial(Displayed):
    """A trial of a search."""

    number: int
    state: Literal["complete", "pruned", "failed"]
    settings: dict[str, Any]
    """Sampled values."""
    values: dict[str, float] | None
    """Values by objective; ``None`` unless complete."""
    reason: str | None
    """Reason of a failure."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SearchResult(Displayed):
    """Result of a search."""

    output: Path
    """Folder with ``best.yaml``, ``trials.json``, ``study.db``, plots and a folder per trial."""
    best: int
    """Number of the trial with the lowest first objective."""
    best_settings: dict[str, Any]
    """Settings of the best trial that differ from the defaults, as in ``best.yaml``."""
    best_values: dict[str, float]
    front: list[int]
    """Trials on the Pareto front; with one objective, the best trial."""
    importance: dict[str, float]
    """Fraction of the first objective's variance explained by each setting (fANOVA); empty for few trials."""
    trials: list[Trial]


class Runner(Protocol[C_contra, R_co]):
    """Interface that executes the trials of a search."""

    def check(self, config: C_contra) -> None:
        """Check what is the same for all trials."""
        ...

    def train(self, config: C_contra, output: Path, on_loss: Callable[[int, float], object]) -> R_co:
        """Execute a trial and write its files to ``output``.

        ``on_loss`` is called after each validation with its number, from 1, and its loss. An exception raised
        in it stops the trial and propagates.
        """
        ...

    def forget(self) -> None:
        """Discard all state shared between trials."""
        ...


def check_installed() -> None:
    """Check that the optional dependencies are installed.

    Raises
    ------
    DependencyError
        If one is missing; the message contains the installation command.
    """
    for module in ("optuna", "sklearn", "matplotlib"):
        require(module, extra="optimize", purpose="the search for settings")


class Search(Generic[C, R]):
    """A hyperparameter search.

    Parameters
    ----------
    name
        Name of Optuna's study.
    given
        Configuration as given by the user.
    base
        Complete configuration, with the fields ``output``, ``resume``, ``overwrite`` and ``seed``.
    config
        Configuration of the search.
    space
        Search space.
    objectives
        Functions that compute the objectives from a result.
    labels
        Axis labels of the objectives.
    runner
        Executes the trials.
    data
        Files and folders of the data, for the record.
    on_trial
        Called with each finished trial.
    callback
        Receives the search as a run, whose parts are its trials.
    """

    def __init__(
        self,
        name: str,
        *,
        given: C,
        base: C,
        config: SearchConfig,
        space: SearchSpace[C],
        objectives: Mapping[str, Callable[[R], float]],
        labels: Mapping[str, str],
        runner: Runner[C, R],
        data: Sequence[Path] = (),
        on_trial: Callable[[Trial], object] | None = None,
        callback: AnyCallback | None = None,
    ) -> None:
        self.optuna: Any = import_module("optuna")
        self.name = name
        self.given = given
        self.base = base
        self.config = config
        self.space = space
        self.objectives = objectives
        self.labels = labels
        self.runner = runner
        self.on_trial = on_trial
        folder = base.to_dict()
        self.output = Path(folder["output"])
        self.resume: bool = folder["resume"]
        self.overwrite: bool = folder["overwrite"]
        self.seed: int = folder["seed"]
        self.recorder = Recorder(
            self.output,
            kind="search",
            configuration=self._describe(),
            data=data,
            resume=self.resume,
            callback=callback,
        )

    def run(self) -> SearchResult:
        """Execute the remaining trials, and those that were interrupted once more, and write the results.

        Raises
        ------
        ConfigError
            If the search in the folder has another search space, configuration or objectives.
        TrainingError
            If the folder contains another search or all trials failed.
        """
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        with self.recorder:
            # A wrong model or data set would fail every run alike; here it is raised as it is.
            self.runner.check(self.space.apply(self.base, {}))
            study = self._study()
            self.recorder.start()
            self._try(study)
            result = self._result(study)
            self.recorder.result = {**result.best_values, "trials": len(result.trials)}
        return result

    def _try(self, study: Any) -> None:
        left = self.config.trials - len(list_ended(study))
        timeout = None if self.config.timeout_minutes is None else 60 * self.config.timeout_minutes
        if left <= 0:
            return
        try:
            study.optimize(
                self._objective,
                n_trials=left,
                timeout=timeout,
                catch=(ToolkitError,),
                callbacks=[self._tell],
            )
        except Exception as error:
            if not is_storage_error(error):
                raise
            message = f"cannot write to {self.output / STUDY}: was it removed, or is the disk full?"
            raise TrainingError(message) from error

    def _study(self) -> Any:
        path = self.output / STUDY
        check_files(self.output)
        refuse_link(self.output / _TRIALS)
        check_unused(self.output, STUDY, what="a search", resume=self.resume, overwrite=self.overwrite)
        if path.exists() and not self.resume:
            shutil.rmtree(self.output / _TRIALS, ignore_errors=True)
            path.unlink()
        elif self.resume and not path.exists():
            message = (
                f"{self.output} holds no search to resume: there is no {STUDY}; start it without --resume"
            )
            raise TrainingError(message)
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            study = self.optuna.create_study(
                study_name=self.name,
                storage=open_storage(path),
                sampler=self._sampler(seed=self.seed),
                pruner=self._pruner(),
                directions=["minimize"] * len(self.config.objectives),
                load_if_exists=True,
            )
            self._check_same(study)
            trials = study.get_trials(deepcopy=False)
        except ToolkitError:
            raise
        except Exception as error:
            # Of Optuna, SQLAlchemy or SQLite, or of whatever finds something else than was written.
            reason = " ".join(str(error).split())
            message = f"{path} is damaged ({reason}); choose another output, or give overwrite"
            raise TrainingError(message) from error
        for number in repeat_unfinished(study):
            shutil.rmtree(self._folder(number), ignore_errors=True)
        if trials:
            study.sampler = self._sampler(seed=self.seed + len(trials))
        elif (first := self.space.first(self.base)) is not None:
            study.enqueue_trial(first)
        return study

    def _check_same(self, study: Any) -> None:
        """Check that the stored search is comparable with this one."""
        # Through JSON, as the storage returns it.
        described = json.loads(json.dumps(self._describe()))
        stored = study.user_attrs.get("search")
        if stored is None:
            study.set_user_attr("search", described)
        elif stored != described:
            changed = next(key for key in described if stored.get(key) != described[key])
            message = (
                f"the search in {self.output} was started with another {changed}: {stored.get(changed)}; "
                "resume it with the same, or choose another output"
            )
            raise ConfigError(message)

    def _describe(self) -> dict[str, Any]:
        """Describe what is common to all trials."""
        base = {k: v for k, v in self.base.to_dict().items() if k not in FOLDER_SETTINGS}
        return {"objectives": self.config.objectives, "space": self.space.to_dict(), "training": base}

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
            trial.set_user_attr("reason", INTERRUPTED)
            shutil.rmtree(self._folder(trial.number), ignore_errors=True)
            raise
        finally:
            trial.set_user_attr("seconds", perf_counter() - started)
            # Nothing resumes a single run of a search.
            shutil.rmtree(self._folder(trial.number) / "checkpoints", ignore_errors=True)
        return tuple(self.objectives[name](result) for name in self.config.objectives)

    def _train(self, trial: Any, drawn: Mapping[str, object]) -> R:
        def report(place: int, loss: float) -> None:
            # A pruner looks at one value.
            if len(self.config.objectives) == 1:
                # Runs of different lengths are compared at the same share of their steps.
                trial.report(loss, place)
                if place < self.config.evaluations and trial.should_prune():
                    raise self.optuna.TrialPruned

        return self.runner.train(self.space.apply(self.base, drawn), self._folder(trial.number), report)

    def _folder(self, number: int) -> Path:
        return self.output / _TRIALS / f"{number:04}"

    def _tell(self, _study: Any, trial: Any) -> None:
        ended = self._trial(trial)
        self.recorder.log(ended.number + 1, {**(ended.values or {}), "seconds": ended.seconds})
        if self.on_trial is not None:
            self.on_trial(ended)

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

    def _result(self, study: Any) -> SearchResult:
        trials = [self._trial(trial) for trial in list_ended(study)]
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
        result = SearchResult(
            output=self.output,
            best=best.number,
            best_settings=settings,
            best_values=best.values or {},
            front=front,
            importance=compute_importance(
                study, [trial.settings for trial in complete], self.space.searched, seed=self.seed
            ),
            trials=trials,
        )
        write_json(self.output / "trials.json", asdict(result))
        self._draw(result)
        return result

    def _draw(self, result: SearchResult) -> None:
        """Write ``history.png``, ``importance.png`` and, for several objectives, ``front.png``."""
        first = self.config.objectives[0]
        label = self.labels[first]
        values = {trial.number: trial.values for trial in result.trials if trial.values is not None}
        history = {number: reached[first] for number, reached in values.items()}
        plots.draw_history(self.output / "history.png", history, label)
        if result.importance:
            plots.draw_importance(self.output / "importance.png", result.importance, first)
        if len(self.config.objectives) > 1:
            second = self.config.objectives[1]
            points = {
                title: [(v[first], v[second]) for n, v in values.items() if (n in result.front) is is_front]
                for title, is_front in (("others", False), ("front", True))
            }
            plots.draw_front(self.output / "front.png", points, (label, self.labels[second]))
