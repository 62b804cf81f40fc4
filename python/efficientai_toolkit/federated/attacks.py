"""Hostile clients, to see what a rule bears.

ALIE: Baruch et al. 2019, arXiv:1902.06156; inner-product manipulation: Xie et al. 2020, arXiv:1903.03936.
Both know the honest updates of the round, as the papers assume.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Attack = Literal["none", "sign_flip", "gaussian", "ipm", "alie", "nan"]
"""What hostile clients send."""


@dataclass(kw_only=True, slots=True)
class Attackers:
    """The hostile clients of a run, who share what they see.

    Parameters
    ----------
    kind
        ``sign_flip`` sends ``-scale·d``, ``gaussian`` noise of the deviation ``scale``, ``ipm`` ``-scale``
        times the honest mean, ``alie`` that mean minus ``scale`` deviations, ``nan`` no numbers.
    scale
        Strength.
    seed
        Random seed of the noise.
    """

    kind: Attack
    scale: float = 1.0
    seed: int = 0
    _round: int = 0
    _count: int = 0
    _mean: "dict[str, NDArray[Any]]" = field(default_factory=dict[str, Any])
    _squares: "dict[str, NDArray[Any]]" = field(default_factory=dict[str, Any])

    def watch(self, change: "Mapping[str, NDArray[Any]]", round_number: int) -> None:
        """See an honest update."""
        if round_number != self._round:
            self._round, self._count, self._mean, self._squares = round_number, 0, {}, {}
        self._count += 1
        for name, array in change.items():
            wide = array.astype(np.float64)
            before = self._mean.get(name, np.zeros_like(wide))
            mean = before + (wide - before) / self._count
            self._squares[name] = self._squares.get(name, 0.0) + (wide - before) * (wide - mean)
            self._mean[name] = mean

    def change(
        self, honest: "Mapping[str, NDArray[Any]]", client: int, round_number: int
    ) -> "dict[str, NDArray[Any]]":
        """Return what a hostile client sends in place of its honest update."""
        random = np.random.default_rng([self.seed, client, round_number])
        return {name: self._spoil(name, array, random).astype(array.dtype) for name, array in honest.items()}

    def _spoil(self, name: str, array: "NDArray[Any]", random: np.random.Generator) -> "NDArray[Any]":
        mean = self._mean.get(name, array.astype(np.float64))
        match self.kind:
            case "none":
                return array
            case "sign_flip":
                return -self.scale * array
            case "gaussian":
                return self.scale * random.standard_normal(array.shape)
            case "ipm":
                return -self.scale * mean
            case "alie":
                deviation = np.sqrt(self._squares.get(name, np.zeros_like(mean)) / max(self._count, 1))
                return mean - self.scale * deviation
            case "nan":
                return np.full(array.shape, np.nan)
