"""How the server applies the update of a round: as it is, or as the gradient of an optimizer.

Reddi et al. 2021, *Adaptive Federated Optimization*, arXiv:2003.00295. With the update ``d`` of a round::

    avgm     m = momentum·m + d                                        w += lr·m
    adagrad  m = d                 v += d²                             w += lr·m / (√v + τ)
    adam     m = β1·m + (1-β1)·d   v = β2·v + (1-β2)·d²                w += lr'·m / (√v + τ)
    yogi     m = β1·m + (1-β1)·d   v -= (1-β2)·d²·sign(v - d²)         w += lr·m / (√v + τ)

where ``lr' = lr·√(1-β2ᵗ⁺¹) / (1-β1ᵗ⁺¹)`` in round ``t``, as in Flower.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ServerOptimizer = Literal["none", "avgm", "adagrad", "adam", "yogi"]
"""Optimizers of the server."""


@dataclass(kw_only=True, slots=True)
class ServerStep:
    """Optimizer of the server; its state is kept in 64 bits.

    Parameters
    ----------
    optimizer
        ``none`` adds the update times ``lr``.
    lr
        Learning rate of the server.
    momentum
        Momentum of ``avgm``.
    beta1, beta2
        Decay of the first and second moments.
    tau
        Added to the root of the second moment.
    """

    optimizer: ServerOptimizer = "none"
    lr: float = 1.0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    rounds: int = 0
    first: "dict[str, NDArray[Any]]" = field(default_factory=dict[str, Any])
    second: "dict[str, NDArray[Any]]" = field(default_factory=dict[str, Any])

    def apply(
        self, arrays: "Mapping[str, NDArray[Any]]", change: "Mapping[str, NDArray[Any]]"
    ) -> "dict[str, NDArray[Any]]":
        """Return the global arrays after a round, in their dtypes; whole numbers are rounded."""
        self.rounds += 1
        return {name: _add(array, self._step(name, array, change[name])) for name, array in arrays.items()}

    def _step(self, name: str, array: "NDArray[Any]", change: "NDArray[Any]") -> "NDArray[Any]":
        wide = change.astype(np.float64)
        if self.optimizer == "none" or array.dtype.kind != "f":
            # Counters of batches and the like are no weights.
            return wide * (self.lr if array.dtype.kind == "f" else 1.0)
        if self.optimizer == "avgm":
            self.first[name] = self.momentum * self.first.get(name, 0.0) + wide
            return self.lr * self.first[name]
        decay = 0.0 if self.optimizer == "adagrad" else self.beta1
        first = decay * self.first.get(name, 0.0) + (1 - decay) * wide
        square = wide * wide
        before = self.second.get(name, np.zeros_like(wide))
        match self.optimizer:
            case "adagrad":
                second, rate = before + square, self.lr
            case "adam":
                second, rate = self.beta2 * before + (1 - self.beta2) * square, self._corrected()
            case "yogi":
                second, rate = before - (1 - self.beta2) * square * np.sign(before - square), self.lr
        self.first[name], self.second[name] = first, second
        return rate * first / (np.sqrt(second) + self.tau)

    def _corrected(self) -> float:
        power = self.rounds + 1
        return self.lr * math.sqrt(1 - self.beta2**power) / (1 - self.beta1**power)

    def state(self) -> "dict[str, dict[str, NDArray[Any]]]":
        """Return the state between two rounds."""
        rounds = {"rounds": np.array(self.rounds, np.float64)}
        return {"first": dict(self.first), "second": dict(self.second), "count": rounds}

    def restore(self, state: "Mapping[str, Mapping[str, NDArray[Any]]]") -> None:
        """Take over what :meth:`state` returned."""
        self.first, self.second = dict(state["first"]), dict(state["second"])
        self.rounds = int(state["count"]["rounds"])


def _add(array: "NDArray[Any]", step: "NDArray[Any]") -> "NDArray[Any]":
    total = array.astype(np.float64) + step
    rounded: NDArray[Any] = total if array.dtype.kind == "f" else np.rint(total)
    return rounded.astype(array.dtype)
