"""Aggregation of updates: every rule against plain numpy in float64, dtypes, and bad input."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated import Accumulator, aggregate, aggregate_with_report

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]
SHAPES = {"layer.weight": (37, 19), "layer.bias": (37,), "scale": ()}


def clients(
    count: int, *, spread: float = 1.0, dtype: Any = np.float32, seed: int = 0
) -> list[dict[str, Array]]:
    """Updates around one common point."""
    rng = np.random.default_rng(seed)
    base = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return [
        {
            name: np.asarray(base[name] + spread * rng.standard_normal(shape)).astype(dtype)
            for name, shape in SHAPES.items()
        }
        for _ in range(count)
    ]


def flat(update: dict[str, Array]) -> Array:
    return np.concatenate([np.asarray(value, np.float64).ravel() for value in update.values()])


def matrix(updates: list[dict[str, Array]]) -> Array:
    return np.stack([flat(update) for update in updates])


def distances(x: Array) -> Array:
    return np.asarray(((x[:, None] - x[None]) ** 2).sum(-1))


def krum_order(x: Array, f: int) -> Array:
    near = np.sort(distances(x), axis=1)[:, 1 : len(x) - f - 1].sum(1)
    return np.asarray(np.argsort(near, kind="stable"))


def trimmed(x: Array, f: int) -> Array:
    return np.asarray(np.sort(x, axis=0)[f : len(x) - f].mean(0))


def bulyan(x: Array, f: int) -> Array:
    chosen = np.sort(x[krum_order(x, f)[: len(x) - 2 * f]], axis=0)
    near = np.argsort(np.abs(chosen - np.median(chosen, axis=0)), axis=0, kind="stable")
    return np.asarray(np.take_along_axis(chosen, near[: len(x) - 4 * f], axis=0).mean(0))


def geometric_median(x: Array) -> Array:
    z = np.asarray(x.mean(0))
    for _ in range(2000):
        weights = 1 / np.linalg.norm(x - z, axis=1)
        z = np.asarray(weights @ x / weights.sum())
    return z


def centered_clipping(x: Array, v: Array, tau: float) -> Array:
    for _ in range(3):
        lengths = np.linalg.norm(x - v, axis=1)
        v = v + ((x - v) * np.minimum(1, tau / lengths)[:, None]).mean(0)
    return v


def fltrust(x: Array) -> Array:
    server, x = x[-1], x[:-1]
    lengths = np.linalg.norm(x, axis=1)
    trust = np.maximum(0, x @ server / lengths / np.linalg.norm(server))
    return np.asarray((trust * np.linalg.norm(server) / lengths) @ x / trust.sum())


def nearest(x: Array, f: int) -> Array:
    order = np.argsort(distances(x), axis=1, kind="stable")[:, : len(x) - f]
    return np.asarray(x[order].mean(1))


RULES: list[tuple[str, dict[str, Any], Callable[[Array], Array]]] = [
    ("fedavg", {}, lambda x: x.mean(0)),
    ("median", {}, lambda x: np.median(x, axis=0)),
    ("trimmed_mean", {"f": 3}, lambda x: trimmed(x, 3)),
    ("trimmed_mean", {"beta": 0.2}, lambda x: trimmed(x, int(0.2 * len(x)))),
    ("krum", {"f": 2}, lambda x: x[krum_order(x, 2)[0]]),
    ("multi_krum", {"f": 2, "m": 5}, lambda x: x[krum_order(x, 2)[:5]].mean(0)),
    ("multi_krum", {"f": 2}, lambda x: x[krum_order(x, 2)[: len(x) - 4]].mean(0)),
    ("bulyan", {"f": 2}, lambda x: bulyan(x, 2)),
    ("geometric_median", {"iterations": 2000}, geometric_median),
    ("centered_clipping", {"tau": 20.0}, lambda x: centered_clipping(x, np.zeros(x.shape[1]), 20.0)),
    ("fltrust", {}, fltrust),
    ("median", {"pre_aggregation": "nnm", "f": 3}, lambda x: np.median(nearest(x, 3), axis=0)),
    ("krum", {"pre_aggregation": "nnm", "f": 3}, lambda x: (y := nearest(x, 3))[krum_order(y, 3)[0]]),
    ("fedavg", {"pre_aggregation": "nnm", "f": 3}, lambda x: nearest(x, 3).mean(0)),
    ("bulyan", {"pre_aggregation": "nnm", "f": 2}, lambda x: bulyan(nearest(x, 2), 2)),
]


@pytest.mark.parametrize(("rule", "options", "expected"), RULES)
@pytest.mark.parametrize("count", [11, 14])
def test_rules_are_those_of_numpy(
    rule: str, options: dict[str, Any], expected: Callable[[Array], Array], count: int
) -> None:
    updates = clients(count)
    found = flat(aggregate(updates, rule=rule, **options))
    wanted = expected(matrix(updates))
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_weights() -> None:
    updates, weights = clients(9), [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0]
    x = matrix(updates)
    found = flat(aggregate(updates, weights))
    assert np.allclose(found, np.average(x, axis=0, weights=weights), rtol=0, atol=1e-6)
    chosen = krum_order(x, 2)[:4]
    found = flat(aggregate(updates, weights, "multi_krum", f=2, m=4))
    assert np.allclose(
        found, np.average(x[chosen], axis=0, weights=np.array(weights)[chosen]), rtol=0, atol=1e-6
    )


def test_a_reference_is_where_differences_start() -> None:
    updates, reference = clients(9), clients(1, seed=5)[0]
    shifted = [{name: value + reference[name] for name, value in update.items()} for update in updates]
    rules: list[tuple[str, dict[str, Any]]] = [("fltrust", {}), ("centered_clipping", {"tau": 9.0})]
    for rule, options in rules:
        plain = flat(aggregate(updates, rule=rule, **options)) + flat(reference)
        assert np.allclose(
            flat(aggregate(shifted, rule=rule, reference=reference, **options)), plain, atol=1e-5
        )


def test_bucketing_gives_means_of_groups_to_the_rule() -> None:
    updates = clients(12)
    assert np.allclose(
        flat(aggregate(updates, rule="fedavg", pre_aggregation="bucketing", bucket_size=3)),
        matrix(updates).mean(0),
        atol=1e-6,
    )
    seeds = [
        flat(aggregate(updates, rule="median", pre_aggregation="bucketing", seed=seed)) for seed in (0, 0, 1)
    ]
    assert np.array_equal(seeds[0], seeds[1])
    assert not np.array_equal(seeds[0], seeds[2])


@pytest.mark.parametrize("rule", ["krum", "multi_krum"])
@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-5])
def test_krum_sees_small_updates_of_large_weights(rule: str, spread: float) -> None:
    rng = np.random.default_rng(3)
    base = rng.standard_normal(100_000)
    honest = [base + spread * rng.standard_normal(base.size) for _ in range(8)]
    hostile = [base - 3 * spread * rng.standard_normal(base.size) for _ in range(2)]
    updates = [{"w": x.astype(np.float32)} for x in (*honest, *hostile)]
    found = aggregate_with_report(updates, rule=rule, f=2)
    assert found.shares is not None
    assert found.shares[8:] == [0, 0]
    x = np.stack([update["w"].astype(np.float64) for update in updates])
    count = 1 if rule == "krum" else 6
    assert set(np.flatnonzero(found.shares)) == set(krum_order(x, 2)[:count].tolist())


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("rule", ["fedavg", "median", "geometric_median"])
def test_dtypes_stay_and_are_rounded_once(dtype: Any, rule: str) -> None:
    updates = clients(7, dtype=dtype)
    found = aggregate(updates, rule=rule)
    assert {value.dtype for value in found.values()} == {np.dtype(dtype)}
    assert {name: value.shape for name, value in found.items()} == SHAPES
    if rule == "median":
        expected = np.median(matrix(updates), axis=0).astype(dtype)
        assert np.array_equal(flat(found), expected.astype(np.float64))


def test_a_thousand_halves_keep_their_mean() -> None:
    rng = np.random.default_rng(0)
    updates = [{"w": (1 + rng.standard_normal(64) / 1000).astype(np.float16)} for _ in range(1000)]
    exact = np.stack([update["w"].astype(np.float64) for update in updates]).mean(0)
    assert np.array_equal(aggregate(updates)["w"], exact.astype(np.float16))


def test_counters_are_averaged_as_whole_numbers() -> None:
    updates = [{"steps": np.int64(steps), "w": np.array([steps], np.float32)} for steps in (10, 20, 25)]
    found = aggregate(updates)
    assert found["steps"] == 18
    assert found["steps"].dtype == np.int64


def test_options_may_be_numbers_of_numpy() -> None:
    updates = clients(9)
    found = aggregate(updates, rule="krum", f=np.int64(2))
    assert np.array_equal(flat(found), flat(aggregate(updates, rule="krum", f=2)))


def test_views_and_arrays_of_mlx() -> None:
    import mlx.core as mx

    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(aggregate([{"w": base.T}, {"w": base.T + 2}])["w"], base.T + 1)
    for dtype in (mx.float32, mx.bfloat16):
        found = aggregate([{"w": mx.array(base).astype(dtype)}] * 3)["w"]
        assert np.array_equal(found.astype(np.float32), base)


def test_the_room_is_a_name_of_the_package() -> None:
    assert eat.federated.aggregate is aggregate


def test_an_accumulator_is_the_mean_of_what_came() -> None:
    updates, weights = clients(6, dtype=ml_dtypes.bfloat16), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    mean = Accumulator()
    for update, weight in zip(updates, weights, strict=True):
        mean.add(update, weight)
    assert (mean.count, mean.weight) == (6, 21)
    found, wanted = mean.average(), aggregate(updates, weights)
    assert {value.dtype for value in found.values()} == {np.dtype(ml_dtypes.bfloat16)}
    # Shares are rounded in float64, so that what lies between two bfloat16 may go to either.
    assert np.allclose(flat(found), flat(wanted), rtol=2**-7, atol=0)
    before = flat(mean.average())
    bad = clients(1, dtype=ml_dtypes.bfloat16)[0]
    bad["scale"] = np.asarray(np.nan, ml_dtypes.bfloat16)
    with pytest.raises(ConfigError, match=r"^anna: scale has a number that is not finite, at 0"):
        mean.add(bad, client="anna")
    with pytest.raises(ConfigError, match=r"^client 6: layer.weight has dtype float32, expected bfloat16"):
        mean.add(clients(1)[0])
    with pytest.raises(ConfigError, match=r"client 6: the weight is -1, expected a positive number"):
        mean.add(updates[0], -1)
    assert np.array_equal(flat(mean.average()), before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("rule", "options"), [("fedavg", {}), ("median", {}), ("krum", {"f": 1})])
def test_clients_that_are_not_finite(
    rule: str, options: dict[str, Any], bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    updates = clients(7)
    updates[3]["layer.bias"][5] = bad
    message = r'^client 3: layer.bias has a number that is not finite, at 5; .* on_invalid="drop"'
    with pytest.raises(ConfigError, match=message):
        aggregate(updates, rule=rule, **options)
    with caplog.at_level(logging.WARNING):
        found = aggregate_with_report(updates, rule=rule, on_invalid="drop", **options)
    assert found.dropped == [3]
    others = updates[:3] + updates[4:]
    assert np.array_equal(flat(found.arrays), flat(aggregate(others, rule=rule, **options)))
    hostile_server = [*others, updates[3]]
    with pytest.raises(ConfigError, match=r"^client 6: layer.bias has a number that is not finite"):
        aggregate(hostile_server, rule="fltrust", on_invalid="drop")
    with pytest.raises(ConfigError, match="no update is finite"):
        aggregate([updates[3]], on_invalid="drop")


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("mean", {}, r"unknown variant `mean`, expected one of `fedavg`"),
        ("median", {"f": 1}, r"^median: unknown field `f`"),
        ("krum", {"f": 1, "tau": 2}, r"^krum: unknown field `tau`"),
        ("krum", {}, r"^krum: missing field `f`"),
        ("krum", {"f": -1}, r"^krum: invalid value: integer `-1`"),
        ("krum", {"f": 4}, r"^krum: f is 4, which needs 2f\+3 = 11 updates, but there are 10"),
        ("multi_krum", {"f": 2**63}, r"needs 2f\+3 = "),
        ("multi_krum", {"f": 1, "m": 10}, r"^multi_krum: m is 10, expected 1 to n-f = 9"),
        ("bulyan", {"f": 2}, r"^bulyan: f is 2, which needs 4f\+3 = 11 updates, but there are 10"),
        ("trimmed_mean", {"f": 5}, r"^trimmed_mean: f is 5, but 10 updates allow at most 4"),
        ("trimmed_mean", {}, r"^trimmed_mean: pass f, such as f=1, or beta"),
        ("trimmed_mean", {"f": 1, "beta": 0.1}, r"^trimmed_mean: pass f or beta, not both"),
        ("trimmed_mean", {"beta": 0.5}, r"^trimmed_mean: beta is 0.5, expected at least 0 and below 0.5"),
        ("centered_clipping", {"tau": 0}, r"^centered_clipping: tau is 0, expected a positive number"),
        ("geometric_median", {"iterations": 0}, r"^geometric_median: iterations is 0"),
        ("median", {"pre_aggregation": "nnm", "f": 5}, r"^nnm: f is 5, but 10 updates allow at most 4"),
        ("median", {"pre_aggregation": "nnm"}, r"^pre_aggregation: missing field `f`"),
        ("median", {"pre_aggregation": "mixing"}, r"^pre_aggregation: unknown variant `mixing`"),
        ("median", {"pre_aggregation": "bucketing", "bucket_size": 0}, r"^bucket_size is 0"),
        ("krum", {"f": 2, "pre_aggregation": "bucketing"}, r"^krum: f is 2, .* but there are 5"),
        ("fltrust", {"pre_aggregation": "bucketing"}, r"^fltrust takes no pre_aggregation"),
        ("median", {"on_invalid": "ignore"}, r"^on_invalid: unknown variant `ignore`"),
        ("median", {"tau": float("nan")}, r"^options: "),
    ],
)
def test_wrong_options_are_named(rule: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aggregate(clients(10), rule=rule, **options)


def test_wrong_updates_are_named() -> None:
    updates = clients(3)

    def refused(change: dict[str, Any], message: str, *, without: str = "", **options: Any) -> None:
        bad = {name: value for name, value in (updates[2] | change).items() if name != without}
        with pytest.raises(ConfigError, match=message):
            aggregate([*updates[:2], bad], **options)

    refused(
        {"layer.bias": np.zeros(36, np.float32)}, r"^client 2: layer.bias has shape \(36,\), expected \(37,\)"
    )
    refused({"layer.bias": np.zeros(37)}, r"^client 2: layer.bias has dtype float64, expected float32")
    refused({}, r"^client 2: layer.bias is missing", without="layer.bias")
    refused({"other": np.zeros(1)}, r"^client 2: other is not in other updates")
    refused({"scale": "three"}, r"^client 2: scale has dtype <U5, expected float64")
    refused({"scale": np.complex64(1)}, r"^client 2: scale has dtype complex64")
    refused({"scale": np.zeros(9)}, r"^carl: scale has shape", clients=["anna", "bert", "carl"])
    with pytest.raises(ConfigError, match="updates is empty"):
        aggregate([])
    with pytest.raises(ConfigError, match="client 0: the update has no arrays"):
        aggregate([{}])
    with pytest.raises(ConfigError, match="client 0: the update is a list, expected a dictionary"):
        aggregate([[1.0]])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="clients has 1 names for 3 updates"):
        aggregate(updates, clients=["anna"])
    with pytest.raises(ConfigError, match="weights has 2 numbers for 3 updates"):
        aggregate(updates, [1, 2])
    with pytest.raises(ConfigError, match="client 1: the weight is NaN, expected a positive number"):
        aggregate(updates, [1, float("nan"), 1])
    with pytest.raises(ConfigError, match=r"weights: median counts every update once, .* pass weights=None"):
        aggregate(updates, [1, 2, 3], "median")
    with pytest.raises(ConfigError, match="rule median takes no reference"):
        aggregate(updates, rule="median", reference=updates[0])
    zero = {name: np.zeros_like(value) for name, value in updates[0].items()}
    with pytest.raises(ConfigError, match=r"fltrust: the server's update, the last, is zero"):
        aggregate([*updates, zero], rule="fltrust")
