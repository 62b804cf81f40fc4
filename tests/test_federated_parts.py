"""Shares of clients, selection, attacks and the end of a run, without Flower."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.attacks import Attackers
from efficientai_toolkit.federated.convergence import Convergence
from efficientai_toolkit.federated.selection import Selector
from efficientai_toolkit.federated.splitting import partition, read_labels

LABELS = [number % 10 for number in range(1000)]


@pytest.mark.parametrize("kind", ["dirichlet", "quantity", "label", "iid"])
def test_every_row_has_one_owner(kind: Any) -> None:
    shares = partition(LABELS, 12, kind=kind, min_rows=5, seed=1)
    assert sorted(row for share in shares for row in share) == list(range(1000))
    assert min(map(len, shares)) >= 5
    assert shares == partition(LABELS, 12, kind=kind, min_rows=5, seed=1)
    assert shares != partition(LABELS, 12, kind=kind, min_rows=5, seed=2)


def skew(shares: list[list[int]]) -> float:
    """Mean share of the commonest label of each client."""
    counts = [np.bincount([LABELS[row] for row in share], minlength=10) for share in shares if share]
    return float(np.mean([count.max() / count.sum() for count in counts]))


def test_alpha_says_how_much_clients_differ() -> None:
    skews = [skew(partition(LABELS, 10, alpha=alpha, seed=3)) for alpha in (0.05, 0.5, 100)]
    assert skews[0] > 0.6 > skews[1] > 0.25 > skews[2]


def test_labels_of_each_client() -> None:
    shares = partition(LABELS, 10, kind="label", labels_per_client=2, seed=0)
    assert max(len({LABELS[row] for row in share}) for share in shares) <= 2


def test_quantities_differ_and_labels_do_not() -> None:
    shares = partition(LABELS, 10, kind="quantity", alpha=0.5, seed=0)
    sizes = sorted(map(len, shares))
    assert sizes[-1] > 5 * sizes[0]
    assert skew([share for share in shares if len(share) > 100]) < 0.25


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="1000 rows are too few for 200 `clients` with 8 each"):
        partition(LABELS, 200, min_rows=8)


def test_topics_are_found_by_words() -> None:
    texts = ["the cat and a dog eat", "rain and snow fall from clouds", "integers sum to primes"]
    rows = [{"prompt": texts[number % 3], "completion": str(number)} for number in range(60)]
    topics = read_labels(rows, None, seed=0)
    assert all(len({topics[row] for row in range(kind, 60, 3)} & {topics[kind]}) == 1 for kind in range(3))
    assert read_labels([{"a": "x"}, {"a": "y"}, {"a": "x"}], "a") == [0, 1, 0]


def test_random_selection_is_fair_and_repeatable() -> None:
    selector = Selector(seed=5)
    chosen = [selector.select(range(10), 3, number) for number in range(1, 401)]
    counts = np.bincount(np.concatenate(chosen), minlength=10)
    assert all(len(set(some)) == 3 for some in chosen)
    assert abs(counts - 120).max() < 45
    assert chosen == [Selector(seed=5).select(range(10), 3, number) for number in range(1, 401)]


def test_poisson_selection_has_the_rate() -> None:
    sizes = [len(Selector(kind="poisson", seed=5).select(range(100), 20, number)) for number in range(400)]
    assert abs(np.mean(sizes) - 20) < 1
    # Binomial, not fixed.
    assert 3.2 < np.std(sizes) < 4.8


def test_power_of_choice_prefers_high_losses() -> None:
    selector = Selector(kind="power_of_choice", seed=1, candidates=100)
    for node in range(10):
        selector.observe(node, round_number=1, loss=float(node), examples=10, seconds=1)
    assert selector.select(range(10), 3, 2) == [7, 8, 9]


def test_utility_prefers_high_losses_of_fast_clients_and_explores() -> None:
    selector = Selector(kind="utility", seed=1)
    for node in range(10):
        selector.select([node], 1, 1)
        selector.observe(node, round_number=1, loss=float(node), examples=10, seconds=100 if node == 9 else 1)
    assert selector.select(range(10), 3, 2) == [6, 7, 8]
    assert len(set(selector.select(range(20), 5, 3)) & set(range(10, 20))) == 1


def test_what_was_observed_survives() -> None:
    selector = Selector(kind="utility", seed=1)
    for number in range(1, 4):
        for node in selector.select(range(10), 4, number):
            selector.observe(node, round_number=number, loss=node / 3, examples=node + 1, seconds=node)
    again = Selector(kind="utility", seed=1)
    again.restore(selector.to_dict())
    assert again.select(range(10), 4, 4) == selector.select(range(10), 4, 4)


def test_the_run_ends_without_improvement() -> None:
    monitor = Convergence(patience=2, threshold=0.1)
    assert [monitor.observe(number, loss) for number, loss in enumerate([3, 2, 1.95, 1.94, 1], 1)] == [
        False, False, False, True, False,
    ]  # fmt: skip


def test_attacks_are_what_they_are_called() -> None:
    honest = [{"w": np.array([1.0, 3.0])}, {"w": np.array([3.0, 5.0])}]

    def sent(kind: Any, scale: float) -> np.ndarray[Any, Any]:
        attackers = Attackers(kind=kind, scale=scale)
        for change in honest:
            attackers.watch(change, 1)
        return attackers.change({"w": np.array([7.0, 7.0])}, 3, 1)["w"]

    assert sent("sign_flip", 4).tolist() == [-28, -28]
    assert sent("ipm", 0.5).tolist() == [-1, -2]
    assert sent("alie", 1.5).tolist() == [0.5, 2.5]
    assert np.isnan(sent("nan", 1)).all()
    assert not np.array_equal(sent("gaussian", 1), [7, 7])
