"""Bayesian optimization with a Gaussian process, as an Optuna sampler.

The surrogate model uses a Matérn kernel with ν = 5/2 and one length scale per parameter (`Snoek et al. 2012
<https://arxiv.org/abs/1206.2944>`_), fitted with scikit-learn. New parameters maximize the expected
improvement (`Jones et al. 1998 <https://doi.org/10.1023/A:1008306431147>`_). Optuna's own Gaussian process
sampler requires PyTorch.
"""

# scikit-learn and scipy have no types.
# pyright: basic

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]

_CANDIDATES = 1000
"""Number of random points at which the acquisition function is evaluated."""

_NEIGHBOURS = 200
"""Number of additional points near the best trial."""


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Compute the expected improvement of N(mean, deviation²) below ``best``."""
    deviation = np.maximum(deviation, 1e-12)
    gain = best - mean
    improvement: Floats = gain * norm.cdf(gain / deviation) + deviation * norm.pdf(gain / deviation)
    return improvement


class GaussianProcessSampler(BaseSampler):  # type: ignore[misc]
    """Sampler that maximizes the expected improvement.

    Parameters
    ----------
    seed
        Random seed.
    startup_trials
        Number of random trials before the Gaussian process is used.
    """

    def __init__(self, *, seed: int, startup_trials: int = 8) -> None:
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._startup_trials = startup_trials
        self._intersection = IntersectionSearchSpace()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Return the parameters common to all trials so far."""
        space = self._intersection.calculate(study)
        return {name: kind for name, kind in space.items() if not kind.single()}

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Sample parameters; return none during startup, so that they are sampled independently."""
        done = [
            t
            for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if t.value is not None
            and math.isfinite(t.value)
            and all(name in t.params for name in search_space)
        ]
        if not search_space or len(done) < self._startup_trials:
            return {}
        sign = 1.0 if study.direction.name == "MINIMIZE" else -1.0
        values = sign * np.array([t.value for t in done])
        points = np.stack([_encode(t.params, search_space) for t in done])
        best = points[values.argmin()]
        drawn = [self._draw(search_space) for _ in range(_CANDIDATES)]
        drawn += [self._near(best, search_space) for _ in range(_NEIGHBOURS)]
        candidates = np.stack([_encode(settings, search_space) for settings in drawn])
        mean, deviation = cast(
            "tuple[Floats, Floats]", self._fitted(points, values).predict(candidates, return_std=True)
        )
        return drawn[int(expected_improvement(mean, deviation, values.min()).argmax())]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample a parameter at random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed the generators, for parallel studies."""
        self._rng = np.random.default_rng()
        self._random.reseed_rng()

    def _fitted(self, points: Floats, values: Floats) -> GaussianProcessRegressor:
        width = points.shape[1]
        lengths: Any = np.ones(width)
        kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(lengths, (1e-2, 1e2), nu=2.5)
        process = GaussianProcessRegressor(
            kernel + WhiteKernel(1e-3, (1e-8, 1.0)),
            normalize_y=True,
            n_restarts_optimizer=1,
            random_state=int(self._rng.integers(2**31)),
        )
        # Matrices this small are slower on several threads.
        with threadpool_limits(1), warnings.catch_warnings():
            # A length at its bound only says that a setting hardly matters.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return process.fit(points, values)

    def _draw(self, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        return {name: _decode(kind, self._rng.random(), self._rng) for name, kind in space.items()}

    def _near(self, best: Floats, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        """Perturb the best parameters; each category is kept with probability 4/5."""
        settings: dict[str, Any] = {}
        place = 0
        for name, kind in space.items():
            if isinstance(kind, CategoricalDistribution):
                share = best[place : place + len(kind.choices)]
                place += len(kind.choices)
                stays = self._rng.random() < 0.8  # noqa: PLR2004
                index = int(share.argmax()) if stays else int(self._rng.integers(len(kind.choices)))
                settings[name] = kind.choices[index]
            else:
                shifted = float(np.clip(best[place] + self._rng.normal(0.0, 0.1), 0.0, 1.0))
                settings[name] = _decode(kind, shifted, self._rng)
                place += 1
        return settings


def _encode(settings: Mapping[str, Any], space: Mapping[str, Any]) -> Floats:
    """Encode parameters as numbers from 0 to 1; categories are one-hot encoded."""
    parts: list[float] = []
    for name, kind in space.items():
        if isinstance(kind, CategoricalDistribution):
            index = kind.to_internal_repr(settings[name])
            parts += [float(i == index) for i in range(len(kind.choices))]
        else:
            low, high = _bounds(kind)
            value = math.log(settings[name]) if kind.log else settings[name]
            parts.append((value - low) / (high - low))
    return np.array(parts)


def _decode(kind: Any, share: float, rng: np.random.Generator) -> Any:
    """Decode a number from 0 to 1."""
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[int(rng.integers(len(kind.choices)))]
    low, high = _bounds(kind)
    value = low + share * (high - low)
    value = math.exp(value) if kind.log else value
    if isinstance(kind, IntDistribution):
        return int(np.clip(round(value), kind.low, kind.high))
    return float(np.clip(value, kind.low, kind.high))


def _bounds(kind: Any) -> Sequence[float]:
    return (math.log(kind.low), math.log(kind.high)) if kind.log else (kind.low, kind.high)
