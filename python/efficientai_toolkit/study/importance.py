"""Importance of the settings of a search, by `fANOVA <https://proceedings.mlr.press/v32/hutter14.html>`_."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any


def compute_importance(
    study: Any, settings: Sequence[dict[str, Any]], searched: Iterable[str], *, seed: int
) -> dict[str, float]:
    """Compute the fraction of the first objective's variance explained by each setting, in descending order.

    Parameters
    ----------
    study
        Optuna's study.
    settings
        Settings of its complete trials.
    searched
        Names of the settings that are searched; those with one value are left out.
    seed
        Seed of the forest.

    Returns
    -------
    dict
        Empty if there are too few trials, or all have the same value.
    """
    searched = list(searched)
    names = [name for name in searched if len({str(drawn[name]) for drawn in settings}) > 1]
    if len(settings) <= len(searched) or not names:
        return {}
    states = import_module("optuna").trial.TrialState
    complete = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
    if len({trial.values[0] for trial in complete}) == 1:
        return {}
    importance: Any = import_module("optuna").importance
    evaluator = importance.FanovaImportanceEvaluator(seed=seed)
    shares = importance.get_param_importances(study, evaluator=evaluator, params=names, target=_first_value)
    return {name: float(share) for name, share in shares.items()}


def _first_value(trial: Any) -> float:
    return float(trial.values[0])
