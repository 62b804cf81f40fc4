"""Privacy: clipping, noise, the adaptive norm, accounting beside published values, and the budget."""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated import privacy
from efficientai_toolkit.federated.privacy import AdaptiveClip, Budget, BudgetExceededError, PrivateSum

GOLDEN = [
    (0.01, 1.0, 1000, 1e-5, 2.101367, 1.828244),
    (0.01, 4.0, 10000, 1e-5, 1.035490, 0.946999),
    (256 / 60000, 1.1, 14100, 1e-5, 2.600343, 2.385211),
    (0.1, 1.0, 100, 1e-5, 7.903850, 7.046603),
    (0.01, 1.0, 100, 1e-6, 1.507389, 0.954218),
    (0.001, 0.8, 1500, 1e-6, 1.486410, 0.518948),
    (1.0, 5.0, 20, 1e-5, 4.161624, 3.848610),
]
"""Sampling rate, noise, rounds, δ, and ε by RDP and PLD of dp-accounting 0.6; Opacus agrees within 0.06 %."""


def update(seed: int = 0, dtype: Any = np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal((20, 30)).astype(dtype), "b": rng.standard_normal(30).astype(dtype)}


def norm(arrays: dict[str, Any]) -> float:
    return math.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in arrays.values()))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_norm_over_all_tensors(dtype: Any) -> None:
    original = update(dtype=dtype)
    clipped, before = privacy.clip(original, 2.0)
    assert before == pytest.approx(norm(original), rel=1e-14)
    assert 2.0 * (1 - 1e-14) <= norm(clipped) <= 2.0
    ratio = clipped["w"] / original["w"].astype(np.float64)
    assert np.ptp(ratio) <= 1e-15
    assert ratio.flat[0] == pytest.approx((clipped["b"] / original["b"].astype(np.float64))[0])
    short, _ = privacy.clip(original, 1e3)
    assert all(np.array_equal(short[name], original[name].astype(np.float64)) for name in original)


def test_noise_is_on_the_sum_and_its_mean_divided_by_who_replied() -> None:
    for replies in (3, 12):
        total = PrivateSum(2.0, 0.7, rng=np.random.default_rng(1))
        plain = PrivateSum(2.0, 0.0)
        for number in range(replies):
            zero = {"w": np.zeros(100_000)}
            total.add(zero)
            plain.add(zero)
            assert total.count == number + 1
        noise = total.mean()["w"]
        wanted = 0.7 * 2.0 / replies
        # The deviation of 1e5 draws is off by 0.22 %: five times that.
        assert noise.std() == pytest.approx(wanted, rel=0.012)
        assert abs(noise.mean()) < 5 * wanted / math.sqrt(noise.size)
        # A normal distribution, not another of this deviation: the fourth moment.
        assert (noise**4).mean() / noise.var() ** 2 == pytest.approx(3, rel=0.06)
        assert not plain.mean()["w"].any()


def test_a_client_moves_the_sum_by_the_norm_at_most() -> None:
    with_client, without = PrivateSum(1.0, 0.0), PrivateSum(1.0, 0.0)
    for seed in range(5):
        with_client.add(update(seed))
        without.add(update(seed))
    with_client.add({name: 1e6 * value for name, value in update(9).items()})
    change = {
        name: with_client.mean()[name].astype(np.float64) * 6 - without.mean()[name].astype(np.float64) * 5
        for name in ("w", "b")
    }
    assert norm(change) <= 1 + 1e-5
    assert (with_client.count, with_client.within) == (6, 0)
    assert with_client.mean()["w"].dtype == np.float32


def test_the_adaptive_norm_follows_the_quantile() -> None:
    rng = np.random.default_rng(0)
    clip = AdaptiveClip(100.0, quantile=0.5, count_noise=1.0)
    for _ in range(100):
        norms = rng.lognormal(0.0, 0.5, 50)
        clip.update(int((norms <= clip.norm).sum()), 50, rng)
    assert clip.norm == pytest.approx(1.0, abs=0.15)
    # Both mechanisms together are as private as one with the whole noise.
    left = clip.sum_noise_multiplier(1.0)
    assert left > 1
    assert 1 / math.sqrt(left**-2 + (2 * clip.count_noise) ** -2) == pytest.approx(1.0)
    before = clip.norm
    assert clip.update(0, 0, rng) == before
    with pytest.raises(
        ConfigError, match=r"count_noise is 1.0, expected more than half of noise_multiplier, 1.5"
    ):
        clip.sum_noise_multiplier(3.0)


def test_wrong_settings_are_named() -> None:
    total = PrivateSum(1.0, 1.0)
    for call, message in (
        (lambda: privacy.clip(update(), 0), "max_norm is 0, expected a positive number"),
        (
            lambda: privacy.clip({"n": np.arange(3)}, 1),
            "the update: n is of integers, which cannot be clipped",
        ),
        (lambda: privacy.clip({"w": np.array([np.nan], np.float32)}, 1), "the update: w is not finite"),
        (lambda: PrivateSum(1.0, -1.0), "noise_multiplier is -1.0, expected 0 or a positive number"),
        (total.mean, "no update was added"),
        (lambda: total.add({"w": np.array([np.inf], np.float32)}), "client 0: w is not finite"),
        (lambda: AdaptiveClip(0.0), "norm is 0.0, expected a positive number"),
        (lambda: AdaptiveClip(1.0, quantile=2), "quantile is 2, expected 0 to 1"),
        (lambda: privacy.epsilon(-1, 0.1, 1, 1e-5), "noise_multiplier is -1, expected 0 or a positive"),
        (lambda: privacy.epsilon(1, 1.1, 1, 1e-5), "sampling_rate is 1.1, expected 0 to 1"),
        (lambda: privacy.epsilon(1, 0.1, -1, 1e-5), "rounds is -1, but must not be negative"),
        (lambda: privacy.epsilon(1, 0.1, 1, 0), "delta is 0, expected above 0 and below 1"),
        (lambda: privacy.epsilon(1, 0.1, 1, 1e-5, accountant="prv"), "accountant is 'prv', expected 'best'"),  # type: ignore[arg-type]
        (
            lambda: privacy.noise_multiplier(0, 0.1, 1, 1e-5),
            "target_epsilon is 0, expected a positive number",
        ),
        (lambda: Budget(0, 1e-5), "epsilon is 0, expected a positive number"),
        (lambda: Budget.from_state({"epsilon": 1}), "the state of a privacy budget is damaged"),
        (
            lambda: Budget.from_state({"epsilon": 1, "delta": 0.1, "rounds": [[1, 2, 3]]}),
            "sampling_rate is 2.0",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    assert total.count == 0


def test_nothing_is_spent_without_rounds_and_all_without_noise() -> None:
    assert privacy.epsilon(1.0, 0.1, 0, 1e-5) == 0
    assert privacy.epsilon(1.0, 0.0, 10, 1e-5) == 0
    assert privacy.epsilon(0.0, 0.1, 1, 1e-5) == math.inf


class TestAccounting:
    """Needs dp-accounting, of the extra ``federated``."""

    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("dp_accounting")

    @pytest.mark.parametrize("row", GOLDEN)
    def test_published_values(self, row: tuple[float, float, int, float, float, float]) -> None:
        rate, noise, rounds, delta, rdp, pld = row
        assert privacy.epsilon(noise, rate, rounds, delta, accountant="rdp") == pytest.approx(rdp, rel=1e-4)
        assert privacy.epsilon(noise, rate, rounds, delta, accountant="pld") == pytest.approx(pld, rel=1e-3)
        assert privacy.epsilon(noise, rate, rounds, delta) == pytest.approx(pld, rel=1e-3)

    def test_rounds_only_add(self) -> None:
        spent = [privacy.epsilon(0.8, 0.2, rounds, 1e-6, accountant="rdp") for rounds in (1, 2, 5, 20, 100)]
        assert spent == sorted(spent)
        assert spent[0] >= 0
        mixed = privacy.compose({(0.8, 0.2): 3, (1.5, 0.1): 10}, 1e-5)
        assert mixed >= privacy.epsilon(0.8, 0.2, 3, 1e-5)
        assert mixed >= privacy.epsilon(1.5, 0.1, 10, 1e-5)

    def test_hopeless_noise_is_answered_at_once(self) -> None:
        assert privacy.epsilon(0.01, 0.5, 1000, 1e-5) > 1000

    def test_calibrated_noise_is_enough_and_no_more(self) -> None:
        noise = privacy.noise_multiplier(2.0, 0.05, 50, 1e-5)
        assert privacy.epsilon(noise, 0.05, 50, 1e-5) <= 2.0
        assert privacy.epsilon(noise * 0.999, 0.05, 50, 1e-5) > 2.0

    def test_the_budget_ends_before_the_round_that_would_exceed_it(self) -> None:
        budget = Budget(epsilon=3.0, delta=1e-5)
        while budget.allows(1.0, 0.2):
            budget.spend(1.0, 0.2)
        assert budget.spent <= 3.0 < budget.after(1.0, 0.2)
        assert budget.rounds > 1
        exact = privacy.epsilon(1.0, 0.2, budget.rounds, 1e-5)
        assert budget.spent == exact
        with pytest.raises(
            BudgetExceededError, match=rf"round {budget.rounds + 1} would spend ε = 3\.\d+ of 3 at"
        ):
            budget.spend(1.0, 0.2)
        again = Budget.from_state(json.loads(json.dumps(budget.state())))
        assert (again.rounds, again.spent) == (budget.rounds, exact)
        # A gentler round may still fit.
        assert again.allows(50.0, 0.01)

    def test_a_budget_below_one_round_allows_none(self) -> None:
        assert not Budget(epsilon=0.1, delta=1e-5).allows(0.5, 0.5)
