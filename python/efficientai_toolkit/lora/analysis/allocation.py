"""Allocation of ranks to layers under a common parameter budget."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Spectrum of a layer's gradient."""

    path: str
    """Parameter name without ``.weight``."""
    inputs: int
    outputs: int
    singular_values: list[float]
    """Largest singular values in descending order."""
    energy: float
    """Sum of squares of all singular values."""
    stable_rank: float
    """``energy`` divided by the largest squared singular value."""
    effective_rank: float
    """Exponential of the entropy of the normalized singular values."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Layer":
        """Create a layer from an entry of the engine's report."""
        return cls(**entry)

    @property
    def cost(self) -> int:
        """Parameters per rank: a column of ``A`` and a row of ``B``."""
        return self.inputs + self.outputs

    @property
    def most(self) -> int:
        """Maximum rank, the number of known singular values."""
        return len(self.singular_values)


def count_parameters(layers: Sequence[Layer], ranks: Mapping[str, int]) -> int:
    """Count the parameters of adapters with the given ranks."""
    return sum(layer.cost * ranks[layer.path] for layer in layers)


def allocate(layers: Sequence[Layer], budget: int) -> dict[str, int]:
    """Allocate ranks greedily by gradient energy per parameter (water-filling).

    The ``i``-th rank of a layer captures the energy ``σᵢ²`` of its gradient and costs ``inputs + outputs``
    parameters. Since energies decrease within a layer, the greedy choice maximizes the total energy for the
    budget. A layer whose next rank exceeds the remaining budget is closed.

    Parameters
    ----------
    layers
        Layers that share the budget.
    budget
        Total number of parameters.

    Returns
    -------
    dict
        Rank by layer; 0 for no adapter.
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
    """Allocate the largest uniform rank within the budget, at least 1."""
    rank = max(budget // sum(layer.cost for layer in layers), 1)
    return {layer.path: rank for layer in layers}
