"""Averages of LoRA adapters: the mean of products is not the product of means.

With clients of weight ``w``, factors ``B``, ``A`` and scale ``s``, the exact mean is ``M = Σ w·s·B·A``,
of a rank up to the sum of theirs. Everything is computed in float64.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.aggregation import aggregate
from efficientai_toolkit.federated.arrays import Update, as_numpy

Method = Literal["factors", "freeze_a", "svd", "residual"]
"""How factors are averaged."""

_METHODS = ("factors", "freeze_a", "svd", "residual")

_SUFFIXES = (
    # First and second factor, and whether they are [rank, inputs] and [outputs, rank].
    (".lora_A.weight", ".lora_B.weight", True),
    (".lora_a", ".lora_b", False),
)
"""Names of the factors in PEFT and in mlx-lm."""

_DIMENSIONS = 2

_Matrix = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraAverage:
    """Average of adapters."""

    arrays: dict[str, np.ndarray[Any, Any]]
    """Adapter by name, in the dtypes of the updates."""
    residual: dict[str, np.ndarray[Any, Any]]
    """What to add to the weight of each layer, float32 ``[outputs, inputs]``; of ``residual`` only."""
    errors: dict[str, float]
    """Relative error of each layer, ``‖M - s·B·A‖ / ‖M‖`` in the Frobenius norm, residual included."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Factors of one layer of all clients: ``[outputs, ranks]`` and ``[ranks, inputs]``, side by side."""

    left: list[_Matrix]
    right: list[_Matrix]

    def stacked(self, factors: Sequence[float]) -> tuple[_Matrix, _Matrix]:
        scaled = [factor * left for factor, left in zip(factors, self.left, strict=True)]
        return np.concatenate(scaled, axis=1), np.concatenate(self.right, axis=0)

    def mean(self, weights: Sequence[float], rank: int) -> tuple[_Matrix, _Matrix]:
        """Return the means of both factors; lower ranks have zeros behind their own."""
        pairs = list(zip(weights, self.left, self.right, strict=True))
        left = np.zeros((self.left[0].shape[0], rank))
        right = np.zeros((rank, self.right[0].shape[1]))
        for weight, b, a in pairs:
            left[:, : b.shape[1]] += weight * b
            right[: a.shape[0]] += weight * a
        return left, right


def average_lora(
    updates: Sequence[Update],
    weights: Sequence[float] | None = None,
    method: Method = "svd",
    *,
    rank: int | None = None,
    scales: Sequence[float] | None = None,
    scale: float = 1.0,
) -> LoraAverage:
    """Average the LoRA adapters of clients, which may be of different ranks.

    ============ ======================================================================== ====================
    ``method``   result                                                                   error
    ============ ======================================================================== ====================
    ``factors``  means of ``B`` and of ``A``                                              grows with drift
    ``freeze_a`` mean of ``B``; all have the same ``A`` (FFA-LoRA, arXiv:2403.12313)      none
    ``svd``      best approximation of the exact mean of rank ``rank`` (FLoRA and others) least of its rank
    ``residual`` as ``factors``, and a matrix per layer to add to its weight              none
                 (FedEx-LoRA, arXiv:2410.09432)
    ============ ======================================================================== ====================

    Parameters
    ----------
    updates
        Adapters with PEFT's or mlx-lm's names, one dictionary per client. Tensors that are no factors are
        averaged.
    weights
        Weight of every client; equal by default.
    method
        Method from the table.
    rank
        Rank of the result of ``svd``; the largest of the clients by default.
    scales
        Factor of the product of every client, ``lora_alpha / rank`` in PEFT; one by default.
    scale
        Factor of the product of the result.

    Returns
    -------
    LoraAverage

    Raises
    ------
    ConfigError
        If adapters do not fit together, an argument has a wrong value, or with ``freeze_a`` if clients differ
        in ``A``.
    """
    if method not in _METHODS:
        message = f"method is {method!r}, expected one of {', '.join(_METHODS)}"
        raise ConfigError(message)
    updates = list(updates)
    if not updates:
        message = "updates is empty, expected one adapter per client"
        raise ConfigError(message)
    if rank is not None and rank < 1:
        message = f"rank is {rank}, expected at least 1"
        raise ConfigError(message)
    shares = _positive(weights, len(updates), "weights")
    shares = [share / sum(shares) for share in shares]
    factors = [factor / scale for factor in _positive(scales, len(updates), "scales")]
    pairs = dict(_pairs(updates[0]))
    if not pairs:
        message = "client 0: the update has no LoRA factors, which end in .lora_A.weight or .lora_a"
        raise ConfigError(message)
    names = {name for first, second, _ in pairs.values() for name in (first, second)}
    others = [{name: value for name, value in update.items() if name not in names} for update in updates]
    arrays = aggregate(others, weights) if others[0] else _check_no_others(others)
    residual: dict[str, np.ndarray[Any, Any]] = {}
    errors: dict[str, float] = {}
    for path, (first, second, is_peft) in pairs.items():
        layer = _read(updates, first, second, is_peft=is_peft)
        products = [share * factor for share, factor in zip(shares, factors, strict=True)]
        wanted = max(right.shape[0] for right in layer.right) if rank is None else rank
        left, right = _average(layer, method, shares, products, wanted, path)
        exact = layer.stacked(products)
        if method == "residual":
            difference = exact[0] @ exact[1] - left @ right
            residual[path] = (scale * difference).astype(np.float32)
            errors[path] = 0.0
        else:
            errors[path] = _error(exact, (left, right))
        for name, matrix, turned in ((first, right, not is_peft), (second, left, not is_peft)):
            dtype = as_numpy(updates[0][name], name, "client 0").dtype
            arrays[name] = np.ascontiguousarray(matrix.T if turned else matrix).astype(dtype)
    return LoraAverage(arrays=arrays, residual=residual, errors=errors)


def _average(  # noqa: PLR0917
    layer: _Layer, method: Method, shares: list[float], products: list[float], rank: int, path: str
) -> tuple[_Matrix, _Matrix]:
    if method == "svd":
        return _approximate(*layer.stacked(products), rank)
    if method == "freeze_a":
        for client, right in enumerate(layer.right):
            if right.shape != layer.right[0].shape or not np.array_equal(right, layer.right[0]):
                message = (
                    f"client {client}: the first factor of {path} is not that of client 0, as freeze_a needs"
                )
                raise ConfigError(message)
        left = sum(product * left for product, left in zip(products, layer.left, strict=True))
        return np.asarray(left), layer.right[0]
    left, right = layer.mean(shares, max(right.shape[0] for right in layer.right))
    # One scale for all: it stands on neither factor, so that the mean of equals is their own.
    mean_scale = sum(products) / sum(shares)
    return left * mean_scale, right


def _approximate(left: _Matrix, right: _Matrix, rank: int) -> tuple[_Matrix, _Matrix]:
    """Return the factors of the best approximation of ``left @ right``, of equal lengths."""
    outer, left_core = np.linalg.qr(left)
    inner, right_core = np.linalg.qr(right.T)
    u, values, v = np.linalg.svd(left_core @ right_core.T, full_matrices=False)
    kept = min(rank, len(values))
    root = np.sqrt(values[:kept])
    b, a = (outer @ u[:, :kept]) * root, (v[:kept] @ inner.T) * root[:, None]
    missing = rank - kept
    return np.pad(b, ((0, 0), (0, missing))), np.pad(a, ((0, missing), (0, 0)))


def _error(exact: tuple[_Matrix, _Matrix], found: tuple[_Matrix, _Matrix]) -> float:
    """Return ``‖exact - found‖ / ‖exact‖`` of two products, without forming them."""
    left = np.concatenate((exact[0], -found[0]), axis=1)
    right = np.concatenate((exact[1], found[1]), axis=0)
    whole, difference = _norm(*exact), _norm(left, right)
    if whole == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / whole


def _norm(left: _Matrix, right: _Matrix) -> float:
    return float(np.linalg.norm(np.linalg.qr(left)[1] @ np.linalg.qr(right.T)[1].T))


def _pairs(update: Update) -> Iterator[tuple[str, tuple[str, str, bool]]]:
    """Names of the factors of every layer, by the path of the layer."""
    for name in update:
        for first, second, is_peft in _SUFFIXES:
            if name.endswith(first):
                path = name.removesuffix(first)
                if path + second not in update:
                    message = f"client 0: {path + second} is missing beside {name}"
                    raise ConfigError(message)
                yield path, (name, path + second, is_peft)


def _read(updates: Sequence[Update], first: str, second: str, *, is_peft: bool) -> _Layer:
    left: list[_Matrix] = []
    right: list[_Matrix] = []
    for number, update in enumerate(updates):
        a, b = (_matrix(update, name, f"client {number}") for name in (first, second))
        a, b = (a, b) if is_peft else (a.T, b.T)
        if a.shape[0] != b.shape[1]:
            message = f"client {number}: {first} is of rank {a.shape[0]}, but {second} of {b.shape[1]}"
            raise ConfigError(message)
        if left and (a.shape[1], b.shape[0]) != (right[0].shape[1], left[0].shape[0]):
            message = f"client {number}: {first} and {second} are of another layer than those of client 0"
            raise ConfigError(message)
        left.append(b)
        right.append(a)
    return _Layer(left, right)


def _matrix(update: Update, name: str, client: str) -> _Matrix:
    if name not in update:
        message = f"{client}: {name} is missing, which client 0 has"
        raise ConfigError(message)
    array = as_numpy(update[name], name, client)
    if array.ndim != _DIMENSIONS or 0 in array.shape:
        message = f"{client}: {name} has shape {array.shape}, expected two dimensions"
        raise ConfigError(message)
    wide: _Matrix = array.astype(np.float64)
    if not np.isfinite(wide).all():
        message = f"{client}: {name} has a number that is not finite"
        raise ConfigError(message)
    return wide


def _positive(values: Sequence[float] | None, count: int, name: str) -> list[float]:
    if values is None:
        return [1.0] * count
    numbers = [float(value) for value in values]
    if len(numbers) != count:
        message = f"{name} has {len(numbers)} numbers for {count} updates"
        raise ConfigError(message)
    if bad := [number for number in numbers if not 0 < number < float("inf")]:
        message = f"{name} has {bad[0]}, expected positive numbers"
        raise ConfigError(message)
    return numbers


def _check_no_others(others: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    for number, other in enumerate(others):
        if other:
            message = f"client {number}: {next(iter(other))} is not in the update of client 0"
            raise ConfigError(message)
    return {}
