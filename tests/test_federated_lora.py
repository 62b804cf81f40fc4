"""Averages of LoRA adapters: what each method loses, different ranks, both forms of names, bad input."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated import average_lora

Array = np.ndarray[Any, Any]
PATHS = ("model.q_proj", "model.v_proj")


def adapters(
    ranks: list[int], *, drift: float = 1.0, size: int = 48, peft: bool = True, dtype: Any = np.float32
) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    top = max(ranks)
    common = {path: (rng.standard_normal((size, top)), rng.standard_normal((top, size))) for path in PATHS}
    found = []
    for rank in ranks:
        update: dict[str, Array] = {}
        for path, (b, a) in common.items():
            own_b = (b + drift * rng.standard_normal(b.shape))[:, :rank].astype(dtype)
            own_a = (a + 0.3 * drift * rng.standard_normal(a.shape))[:rank].astype(dtype)
            if peft:
                update |= {f"{path}.lora_A.weight": own_a, f"{path}.lora_B.weight": own_b}
            else:
                update |= {f"{path}.lora_a": own_a.T.copy(), f"{path}.lora_b": own_b.T.copy()}
        found.append(update)
    return found


def product(update: dict[str, Array], path: str) -> Array:
    if f"{path}.lora_a" in update:
        return (update[f"{path}.lora_a"].astype(np.float64) @ update[f"{path}.lora_b"].astype(np.float64)).T
    b, a = update[f"{path}.lora_B.weight"], update[f"{path}.lora_A.weight"]
    return b.astype(np.float64) @ a.astype(np.float64)


def exact(updates: list[dict[str, Array]], path: str, weights: list[float], scales: list[float]) -> Array:
    products = [w * s * product(update, path) for w, s, update in zip(weights, scales, updates, strict=True)]
    return np.asarray(sum(products) / sum(weights))


def relative(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("peft", [True, False])
@pytest.mark.parametrize("ranks", [[4, 4, 4], [2, 4, 8]])
@pytest.mark.parametrize("method", ["factors", "svd", "residual"])
def test_errors_are_those_of_the_products(method: Any, ranks: list[int], peft: bool) -> None:
    updates, weights, scales = adapters(ranks, peft=peft), [1.0, 2.0, 5.0], [2.0, 2.0, 2.0]
    found = average_lora(updates, weights, method, scales=scales, scale=2.0)
    for path in PATHS:
        wanted = exact(updates, path, weights, scales)
        result = 2.0 * product(found.arrays, path)
        if method == "residual":
            result = result + found.residual[path]
            assert relative(result, wanted) < 1e-6
        assert found.errors[path] == pytest.approx(relative(result, wanted), abs=1e-6)
        assert found.residual.keys() == (set(PATHS) if method == "residual" else set())
        assert (found.errors[path] > 0.05) == (method != "residual")
    assert set(found.arrays) == set(updates[0])


def test_svd_is_the_best_of_its_rank_and_exact_with_enough() -> None:
    updates = adapters([4, 4, 4])
    for rank in (4, 8, 12, 16):
        found = average_lora(updates, method="svd", rank=rank)
        for path in PATHS:
            wanted = exact(updates, path, [1, 1, 1], [1, 1, 1])
            values = np.linalg.svd(wanted, compute_uv=False)
            best = np.sqrt((values[rank:] ** 2).sum() / (values**2).sum())
            assert relative(product(found.arrays, path), wanted) == pytest.approx(best, abs=1e-6)
            assert found.errors[path] == pytest.approx(best, abs=1e-12)
            assert found.arrays[f"{path}.lora_A.weight"].shape == (rank, 48)


def test_factors_lose_more_the_more_clients_drift() -> None:
    errors = [
        average_lora(adapters([8] * 10, drift=drift, size=128), method="factors").errors[PATHS[0]]
        for drift in (0.1, 0.5, 1.0, 2.0)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.01
    assert errors[-1] > 0.1


def test_a_frozen_factor_loses_nothing() -> None:
    updates = adapters([4, 4, 4])
    for update in updates:
        update |= {name: value for name, value in updates[0].items() if "lora_A" in name}
    found = average_lora(updates, [1, 2, 3], "freeze_a", scales=[1, 1, 2])
    for path in PATHS:
        assert relative(product(found.arrays, path), exact(updates, path, [1, 2, 3], [1, 1, 2])) < 1e-6
        assert found.errors[path] < 1e-12
    with pytest.raises(
        ConfigError, match=r"client 1: the first factor of model.q_proj is not that of client 0"
    ):
        average_lora(adapters([4, 4]), method="freeze_a")


def test_dtypes_stay_and_other_tensors_are_averaged() -> None:
    updates = adapters([2, 2], dtype=ml_dtypes.bfloat16)
    for number, update in enumerate(updates):
        update["norm"] = np.full(3, number, np.float32)
    found = average_lora(updates, [1, 3]).arrays
    assert np.array_equal(found["norm"], np.full(3, 0.75, np.float32))
    assert {value.dtype for name, value in found.items() if name != "norm"} == {np.dtype(ml_dtypes.bfloat16)}


def test_wrong_adapters_are_named() -> None:
    good = adapters([2, 2])
    first, second = "model.q_proj.lora_A.weight", "model.q_proj.lora_B.weight"

    def refused(change: dict[str, Any], message: str, *, without: str = "") -> None:
        bad = {name: value for name, value in (good[1] | change).items() if name != without}
        with pytest.raises(ConfigError, match=message):
            average_lora([good[0], bad])

    refused({first: np.zeros((3, 48), np.float32)}, f"client 1: {first} is of rank 3, but {second} of 2")
    refused({first: np.zeros((2, 40), np.float32)}, f"client 1: {first} and {second} are of another layer")
    refused({first: np.full((2, 48), np.nan)}, f"client 1: {first} has a number that is not finite")
    refused({first: np.zeros(48)}, rf"client 1: {first} has shape \(48,\), expected two dimensions")
    refused({}, f"client 1: {first} is missing", without=first)
    refused({"norm": np.zeros(1)}, "client 1: norm is not in the update of client 0")
    for updates, options, message in (
        ([], {}, "updates is empty"),
        ([{"w": np.zeros(2)}], {}, "client 0: the update has no LoRA factors"),
        ([{first: good[0][first]}], {}, f"client 0: {second} is missing beside {first}"),
        (good, {"method": "mean"}, "method is 'mean', expected one of factors"),
        (good, {"rank": 0}, "rank is 0, expected at least 1"),
        (good, {"weights": [1]}, "weights has 1 numbers for 2 updates"),
        (good, {"scales": [1, 0]}, "scales has 0.0, expected positive numbers"),
    ):
        with pytest.raises(ConfigError, match=message):
            average_lora(updates, **options)
