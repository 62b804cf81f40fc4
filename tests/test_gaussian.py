"""Bayesian optimisation on functions whose minimum is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest

from efficientai_toolkit.study.gaussian import GaussianProcessSampler, expected_improvement


def branin(x: float, y: float) -> float:
    """Three minima of 0.397887 (Dixon & Szegő 1978)."""
    curve = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return curve**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def search(sampler: Any, trials: int = 26) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    study.optimize(
        lambda t: branin(t.suggest_float("x", -5, 10), t.suggest_float("y", 0, 15)), n_trials=trials
    )
    return study


def test_expected_improvement_is_the_integral() -> None:
    mean, deviation, best = np.array([0.3, 1.0, -2.0]), np.array([0.5, 0.2, 1.5]), 0.4
    z = np.linspace(-12, 12, 200_001)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    gains = np.maximum(best - (mean[:, None] + deviation[:, None] * z), 0.0)
    expected = (gains * density).sum(-1) * (z[1] - z[0])
    assert expected_improvement(mean, deviation, best) == pytest.approx(expected, abs=1e-6)
    # Where nothing is uncertain, the gain is what the mean promises.
    sure = expected_improvement(np.array([0.1, 0.9]), np.zeros(2), 0.4)
    assert sure == pytest.approx([0.3, 0.0], abs=1e-9)


def test_it_finds_the_minimum_where_chance_does_not() -> None:
    found = search(GaussianProcessSampler(seed=0)).best_value
    assert found < 0.5
    assert found < search(optuna.samplers.RandomSampler(seed=0)).best_value


def test_a_seed_repeats_it() -> None:
    first, second = (search(GaussianProcessSampler(seed=4), trials=10) for _ in range(2))
    assert [t.params for t in first.trials] == [t.params for t in second.trials]


def test_choices_whole_numbers_and_logarithms() -> None:
    def cost(trial: optuna.Trial) -> float:
        rank = trial.suggest_int("rank", 1, 64, log=True)
        lr = trial.suggest_float("lr", 1e-6, 1.0, log=True)
        kind = trial.suggest_categorical("kind", ["a", "b", "c"])
        assert 1 <= rank <= 64
        assert 1e-6 <= lr <= 1.0
        if trial.number == 3:
            # A run that failed teaches nothing, and harms nothing.
            message = "out of memory"
            raise MemoryError(message)
        return float((math.log10(lr) + 3) ** 2 + (math.log2(rank) - 3) ** 2 / 4 + (kind != "b"))

    study = optuna.create_study(sampler=GaussianProcessSampler(seed=1))
    study.optimize(cost, n_trials=18, catch=(MemoryError,))
    assert study.best_params["kind"] == "b"
    assert study.best_value < 0.5
