"""Which layer gets which rank, under one budget of parameters for all of them."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """The gradient of one layer, as the engine found it."""

    path: str
    """Name in the checkpoint, without ``.weight``."""
    inputs: int
    outputs: int
    singular_values: list[float]
    """The largest ones, in descending order."""
    energy: float
    """The sum of their squares."""
    stable_rank: float
    """Energy over the largest squared singular value."""
    effective_rank: float
    """Exponential of the entropy of the singular values."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Layer":
        """Read an entry of the engine's report."""
        return cls(**entry)

    @property
    def cost(self) -> int:
        """Parameters of one rank: a column of ``A`` and a row of ``B``."""
        return self.inputs + self.outputs

    @property
    def most(self) -> int:
        """The largest rank that is of use and of which something is known."""
        return len(self.singular_values)


def count_parameters(layers: Sequence[Layer], ranks: Mapping[str, int]) -> int:
    """Numbers in adapters of these ranks."""
    return sum(layer.cost * ranks[layer.path] for layer in layers)


def allocate(layers: Sequence[Layer], budget: int) -> dict[str, int]:
    """Fill ranks where the gradient has the most energy per parameter (water-filling).

    The ``i``-th rank of a layer can take up the energy ``σᵢ²`` of its gradient, and costs ``inputs +
    outputs`` parameters. Within a layer the energies fall, so taking the best offer again and again gives
    the ranks with the largest sum of energies that so many parameters can have. Layers whose next rank does
    not fit any more are closed, and the rest goes to narrower ones.

    Parameters
    ----------
    layers
        Among which the budget is shared.
    budget
        Parameters in all.

    Returns
    -------
    dict
        Rank by layer, 0 for no adapter.
    """
    ranks = dict.fromkeys((layer.path for layer in layers), 0)
    left = budget

    def offer(number: int) -> tuple[float, int] | None:
        layer = layers[number]
        rank = ranks[layer.path]
        if rank == layer.most:
            return None
        return -(layer.singular_values[rank] ** 2) / layer.cost, number

    offers = [first for number in range(len(layers)) if (first := offer(number)) is not None]
    heapq.heapify(offers)
    while offers:
        _, number = heapq.heappop(offers)
        layer = layers[number]
        if layer.cost > left:
            continue
        ranks[layer.path] += 1
        left -= layer.cost
        if (following := offer(number)) is not None:
            heapq.heappush(offers, following)
    return ranks


def allocate_uniformly(layers: Sequence[Layer], budget: int) -> dict[str, int]:
    """One rank for all layers, the largest that the budget has room for, and at least 1."""
    rank = max(budget // sum(layer.cost for layer in layers), 1)
    return {layer.path: rank for layer in layers}
