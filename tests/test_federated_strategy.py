"""The strategy on Flower's message API: beside Flower's own, bad replies, resuming."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from efficientai_toolkit.exceptions import ConfigError, TrainingError
from efficientai_toolkit.federated.rules import Rule
from efficientai_toolkit.federated.selection import Selector
from efficientai_toolkit.federated.server_step import ServerStep

pytest.importorskip("flwr")

import flwr.serverapp.strategy as flower_strategies
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from efficientai_toolkit.federated.grid import LocalGrid, node_of
from efficientai_toolkit.federated.replies import from_record, read_question, to_record
from efficientai_toolkit.federated.strategy import FederatedStrategy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flwr.app import Context

    Arrays = dict[str, np.ndarray[Any, Any]]

BASE = {"w": np.ones((30, 40), np.float32), "b": np.linspace(-1, 1, 7, dtype=np.float32)}


def walk(message: Message, context: Context) -> Message:
    """A client whose update depends on its number and the round only."""
    client = int(context.node_config["partition-id"])
    base, number = read_question(message)
    random = np.random.default_rng([client, number])
    arrays = {
        name: (array + 0.01 * random.normal(size=array.shape)).astype(array.dtype)
        for name, array in base.items()
    }
    return reply(message, arrays, 10 + client, loss=1 / (number + client))


def reply(message: Message, arrays: Any, examples: float = 10, **metrics: float) -> Message:
    record = arrays if isinstance(arrays, ArrayRecord) else to_record(arrays)
    numbers = MetricRecord({"num-examples": examples, **metrics})
    return Message(RecordDict({"arrays": record, "metrics": numbers}), reply_to=message)


def train(strategy: Any, app: Any = walk, *, clients: int = 10, rounds: int = 4, base: Any = None) -> Arrays:
    result = strategy.start(LocalGrid(app, clients), to_record(base or BASE), rounds)
    return from_record(result.arrays)


def flowers(name: str, **settings: Any) -> Any:
    return getattr(flower_strategies, name)(fraction_evaluate=0.0, **settings)


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (FederatedStrategy, lambda: flowers("FedAvg"), 1e-6),
        (lambda: FederatedStrategy(Rule(name="median")), lambda: flowers("FedMedian"), 1e-6),
        (
            lambda: FederatedStrategy(Rule(name="trimmed_mean", f=2)),
            lambda: flowers("FedTrimmedAvg", beta=0.2),
            1e-6,
        ),
        (
            lambda: FederatedStrategy(step=ServerStep(optimizer="avgm", lr=0.7)),
            lambda: flowers("FedAvgM", server_learning_rate=0.7, server_momentum=0.9),
            1e-6,
        ),
        # Flower takes the difference of rounded means, of which these divide: its error, not ours.
        (
            lambda: FederatedStrategy(step=ServerStep(optimizer="adagrad", lr=0.01)),
            lambda: flowers("FedAdagrad", eta=0.01),
            5e-6,
        ),
        (
            lambda: FederatedStrategy(step=ServerStep(optimizer="adam", lr=0.01)),
            lambda: flowers("FedAdam", eta=0.01),
            5e-6,
        ),
        (
            lambda: FederatedStrategy(step=ServerStep(optimizer="yogi", lr=0.01)),
            lambda: flowers("FedYogi", eta=0.01),
            5e-6,
        ),
    ],
    ids=["fedavg", "median", "trimmed_mean", "avgm", "adagrad", "adam", "yogi"],
)
def test_results_are_those_of_flower(
    ours: Callable[[], Any], theirs: Callable[[], Any], tolerance: float
) -> None:
    found, expected = train(ours()), train(theirs())
    for name, array in found.items():
        assert array.dtype == np.float32
        assert np.abs(array - expected[name]).max() <= tolerance, name


def test_small_updates_of_halves_are_not_lost() -> None:
    base = {"w": np.ones(1000, np.float16)}

    def nudge(message: Message, context: Context) -> Message:
        up = np.float16(1.001) if int(context.node_config["partition-id"]) % 2 else np.float16(1)
        return reply(message, {"w": np.full(1000, up)})

    found = train(FederatedStrategy(), nudge, clients=100, rounds=1, base=base)["w"]
    assert found.dtype == np.float16
    assert (found == np.float16((1 + float(np.float16(1.001))) / 2)).all()


def test_counters_stay_whole_numbers() -> None:
    base = {"batches": np.array([4], np.int64), "w": np.zeros(3, np.float32)}

    def count(message: Message, context: Context) -> Message:
        arrays, _ = read_question(message)
        return reply(message, {"batches": arrays["batches"] + 3, "w": arrays["w"] + 1})

    found = train(FederatedStrategy(), count, clients=3, rounds=2, base=base)
    assert found["batches"].dtype == np.int64
    assert found["batches"] == [10]
    assert (found["w"] == 2).all()


def npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def damaged(data: bytes) -> ArrayRecord:
    whole = to_record(BASE)
    whole["w"] = Array("float32", (30, 40), "numpy.ndarray", data)
    return whole


def stored(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


BAD: dict[str, tuple[Callable[[], Any], float, str]] = {
    "nan": (lambda: {**BASE, "w": np.full((30, 40), np.nan, np.float32)}, 10, "'w' has values that are not"),
    "shape": (lambda: {**BASE, "w": np.zeros((40, 30), np.float32)}, 10, r"float32\[40, 30\], expected"),
    "kind": (lambda: {**BASE, "w": np.zeros((30, 40), np.int32)}, 10, "int32"),
    "another model": (lambda: {"v": BASE["w"], "b": BASE["b"]}, 10, "'w' is missing; does the client train"),
    "more": (lambda: {**BASE, "extra": BASE["b"]}, 10, "'extra' is unknown"),
    "oversized": (lambda: {**BASE, "w": np.zeros((3000, 400), np.float32)}, 10, "bytes, expected one of"),
    "cut off": (lambda: damaged(stored(BASE["w"])[:-4]), 10, "cut off"),
    "huge header": (
        lambda: damaged(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,), }")),
        10,
        "9999999999999",
    ),
    "pickle": (
        lambda: damaged(npy("{'descr': '|O', 'fortran_order': False, 'shape': (30, 40), }")),
        10,
        "object",
    ),
    "garbage": (lambda: damaged(b"not an array"), 10, "is damaged"),
    "no examples": (lambda: BASE, 0, "`num-examples` is 0"),
    "endless examples": (lambda: BASE, float("inf"), "`num-examples` is inf"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reply_is_left_out_and_named(name: str) -> None:
    make, examples, reason = BAD[name]

    def app(message: Message, context: Context) -> Message:
        if context.node_id == node_of(1):
            return reply(message, make(), examples)
        return reply(message, {key: array + 1 for key, array in BASE.items()})

    strategy = FederatedStrategy()
    found = train(strategy, app, clients=3, rounds=1)
    assert np.array_equal(found["w"], BASE["w"] + 1)
    (report,) = strategy.history
    left_out = [client for client in report.clients if not client.accepted]
    assert [client.node for client in left_out] == [node_of(1)]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(left_out[0].reason)


def test_a_client_that_fails_is_named() -> None:
    def app(message: Message, context: Context) -> Message:
        if context.node_id == node_of(0):
            problem = "no rows"
            raise RuntimeError(problem)
        return walk(message, context)

    strategy = FederatedStrategy()
    train(strategy, app, clients=3, rounds=1)
    reasons = [client.reason for client in strategy.history[0].clients]
    assert reasons == ["the client failed: RuntimeError: no rows", None, None]


def test_repeated_replies_do_not_count_twice() -> None:
    grid = LocalGrid(walk, 3)
    strategy = FederatedStrategy()
    first = list(
        grid.pull_messages(
            grid.push_messages(strategy.configure_train(1, to_record(BASE), ConfigRecord(), grid))
        )
    )
    strategy.aggregate_train(1, first)
    second = list(
        grid.pull_messages(
            grid.push_messages(strategy.configure_train(2, to_record(BASE), ConfigRecord(), grid))
        )
    )
    strategy.aggregate_train(2, [first[0], *second, second[1]])
    reasons = [client.reason for client in strategy.history[-1].clients]
    assert reasons[0] == "a reply of round 1, repeated in round 2"
    assert "a second reply in the same round" in reasons
    assert strategy.history[-1].accepted == 2


def test_too_few_clients_for_a_rule() -> None:
    with pytest.raises(ConfigError, match="4 updates are too few for multi_krum with f=1, which needs 5"):
        train(FederatedStrategy(Rule(name="multi_krum", f=1)), clients=4, rounds=1)


def test_a_round_with_too_few_replies_changes_nothing() -> None:
    def app(message: Message, context: Context) -> Message:
        if context.node_id > node_of(3):
            problem = "gone"
            raise RuntimeError(problem)
        return walk(message, context)

    strategy = FederatedStrategy(Rule(name="multi_krum", f=1))
    found = train(strategy, app, clients=6, rounds=1)
    assert all(np.array_equal(found[name], BASE[name]) for name in BASE)
    assert strategy.history[0].note == "4 updates are too few for multi_krum with f=1, which needs 5"


@pytest.mark.parametrize("optimizer", ["none", "avgm", "adam"])
def test_a_resumed_run_ends_where_another_does(tmp_path: Path, optimizer: Any) -> None:
    from efficientai_toolkit.federated.checkpoint import load_state, save_state

    def make(**settings: Any) -> FederatedStrategy:
        return FederatedStrategy(
            step=ServerStep(optimizer=optimizer, lr=0.1),
            clients_per_round=4,
            selector=Selector(kind="power_of_choice", seed=3),
            **settings,
        )

    whole = make()
    expected = train(whole, rounds=5)
    train(make(save=lambda state: save_state(tmp_path, state)), rounds=3)
    resumed = make()
    result = resumed.start(LocalGrid(walk, 10), to_record(BASE), 5, resume=load_state(tmp_path))
    found = from_record(result.arrays)
    assert all(np.array_equal(found[name], expected[name]) for name in BASE)
    assert [report.selected for report in resumed.history] == [report.selected for report in whole.history]
    with pytest.raises(TrainingError, match="one of another model"):
        make().start(LocalGrid(walk, 3), to_record({"v": BASE["b"]}), 5, resume=load_state(tmp_path))


def test_the_mean_holds_one_update_at_a_time() -> None:
    living: list[int] = []
    held = 0

    class Counted(LocalGrid):
        def pull_messages(self, message_ids: Any) -> Any:
            for message in super().pull_messages(message_ids):
                nonlocal held
                import gc

                gc.collect()
                held = max(
                    held,
                    sum(isinstance(found, Message) and found.has_content() for found in gc.get_objects()),
                )
                living.append(held)
                yield message

    base = to_record(BASE)
    FederatedStrategy().start(Counted(walk, 12), base, 1)
    few = list(living)
    living.clear()
    assert len(few) == 12
    # The questions go one by one as their answers come; the answers are not kept beside them.
    assert few[-1] <= 12 + 3


def test_states_of_clients_survive(tmp_path: Path) -> None:
    def remember(message: Message, context: Context) -> Message:
        context.state["seen"] = to_record({"n": np.array([float(context.node_id)])})
        return walk(message, context)

    grid = LocalGrid(remember, 2)
    FederatedStrategy().start(grid, to_record(BASE), 1)
    states = grid.export_states()
    again = LocalGrid(remember, 2)
    again.restore_states(states)
    assert from_record(again.contexts[node_of(1)].state.array_records["seen"])["n"] == [node_of(1)]


def test_noise_and_clipping_of_private_rounds() -> None:
    from efficientai_toolkit.federated.guard import PrivacyGuard

    base = {"w": np.zeros(20_000, np.float32)}

    def push(message: Message, context: Context) -> Message:
        # A norm of 1000, of which 2 may stay; far more rows than anybody has do not count.
        return reply(message, {"w": np.full(20_000, 1000 / np.sqrt(20_000), np.float32)}, 1e9)

    guard = PrivacyGuard(clip=2.0, noise=1.5, rate=1.0)
    found = train(FederatedStrategy(guard=guard), push, clients=10, rounds=1, base=base)["w"]
    # On the sum of all that replied: 1.5 · 2, divided by 10.
    assert found.std() == pytest.approx(0.3, rel=0.03)
    assert found.mean() == pytest.approx(2 / np.sqrt(20_000), abs=0.01)


def test_a_run_ends_before_its_budget(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    from efficientai_toolkit.federated.checkpoint import load_state, save_state
    from efficientai_toolkit.federated.guard import PrivacyGuard
    from efficientai_toolkit.federated.privacy import Budget, epsilon

    def make() -> FederatedStrategy:
        return FederatedStrategy(
            guard=PrivacyGuard(clip=1.0, noise=2.0, rate=0.5, budget=Budget(3.0, 1e-5)),
            selector=Selector(kind="poisson", seed=1),
            clients_per_round=5,
            save=lambda state: save_state(tmp_path, state),
        )

    strategy = make()
    train(strategy, rounds=50)
    rounds = len(strategy.history)
    assert epsilon(2.0, 0.5, rounds, 1e-5) <= 3.0 < epsilon(2.0, 0.5, rounds + 1, 1e-5)
    assert strategy.history[-1].metrics["epsilon"] <= 3.0
    again = make()
    again.start(LocalGrid(walk, 10), to_record(BASE), 50, resume=load_state(tmp_path))
    assert len(again.history) == rounds
