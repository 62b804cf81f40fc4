"""Aggregation beside Flower's own functions on the same replies; needs ``flwr``."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from efficientai_toolkit.federated import aggregate, aggregate_with_report

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import bulyan, fedtrimmedavg, multikrum, strategy_utils

pytestmark = pytest.mark.parity

Update = dict[str, np.ndarray[Any, Any]]
EXAMPLES = [30, 10, 50, 20, 40, 60, 25, 15, 35, 45, 55]


def updates(spread: float, seed: int = 0) -> list[Update]:
    """Nine honest clients and two far away from them."""
    rng = np.random.default_rng(seed)
    base = {"a": rng.standard_normal((300, 40)), "b": rng.standard_normal(400)}
    signs = [1.0] * 9 + [-3.0] * 2
    return [
        {
            name: (value + sign * spread * rng.standard_normal(value.shape)).astype(np.float32)
            for name, value in base.items()
        }
        for sign in signs
    ]


def records(clients: list[Update]) -> list[Any]:
    return [
        RecordDict(
            {
                "arrays": ArrayRecord({name: Array(value) for name, value in update.items()}),
                "metrics": MetricRecord({"num-examples": examples}),
            }
        )
        for update, examples in zip(clients, EXAMPLES, strict=True)
    ]


def assert_equal(found: Update, wanted: Update) -> None:
    for name, value in wanted.items():
        assert np.abs(found[name] - value).max() <= 1e-6 * np.abs(value).max()


def stacked(clients: list[Update]) -> Update:
    return {name: np.stack([update[name] for update in clients]) for name in clients[0]}


def from_record(record: Any) -> Update:
    return {name: array.numpy() for name, array in record.items()}


def test_fedavg() -> None:
    clients = updates(0.1)
    wanted = strategy_utils.aggregate_arrayrecords(records(clients), "num-examples")
    assert_equal(aggregate(clients, EXAMPLES), from_record(wanted))


def test_median_and_trimmed_mean() -> None:
    clients = updates(0.1)
    medians = {name: np.median(value, axis=0) for name, value in stacked(clients).items()}
    assert_equal(aggregate(clients, rule="median"), medians)
    for beta in (0.1, 0.2, 0.4):
        means = {name: fedtrimmedavg.trim_mean(value, beta) for name, value in stacked(clients).items()}
        assert_equal(aggregate(clients, rule="trimmed_mean", beta=beta), means)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_krum_where_flower_has_enough_digits(count: int) -> None:
    for seed in range(5):
        clients = updates(0.1, seed)
        replies = records(clients)
        chosen = multikrum.select_multikrum(replies, 2, count)
        wanted = strategy_utils.aggregate_arrayrecords(chosen, "num-examples")
        found = aggregate_with_report(clients, EXAMPLES, "multi_krum", f=2, m=count)
        assert found.shares is not None
        indices = {next(i for i, reply in enumerate(replies) if reply is one) for one in chosen}
        assert set(np.flatnonzero(found.shares)) == indices
        assert_equal(found.arrays, from_record(wanted))


def test_bulyan() -> None:
    clients = updates(0.1)
    chosen = multikrum.select_multikrum(records(clients), 2, len(clients) - 4)
    arrays = [cast("ArrayRecord", record["arrays"]).to_numpy_ndarrays() for record in chosen]
    middle = [np.median(layer, axis=0) for layer in zip(*arrays, strict=True)]
    means = bulyan.aggregate_n_closest_weights(middle, arrays, len(clients) - 8)
    assert_equal(aggregate(clients, rule="bulyan", f=2), dict(zip(clients[0], means, strict=True)))
