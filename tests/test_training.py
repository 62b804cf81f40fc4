"""What a training run promises, on a model of two small blocks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit import _core
from support.engine import (
    FIXTURES,
    MODELS,
    Event,
    Run,
    cross_entropy,
    largest,
    logits,
    recovered_gradients,
    tensors,
    train,
    write_adapter,
)
from support.rows import EOS, random_ids, write_words

MODEL = MODELS / "llama_gqa"
ADAPTER = FIXTURES / "lora" / "gradient"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten rows of several lengths, and three to validate on."""
    rows = random_ids(10, [5, 9, 14, 20], seed=1)
    return write_words(tmp_path / "data", rows, random_ids(3, [8, 13], seed=2))


def rows_with_end(path: Path) -> list[list[int]]:
    lines = path.read_text().splitlines()
    return [[int(word[1:]) for word in json.loads(line)["text"].split()] + [EOS] for line in lines]


def token_loss(rows: list[list[int]], adapter: Path | None = None) -> float:
    """Mean cross-entropy per target token over rows of any length."""
    losses, counts = [], []
    for row in rows:
        ids = np.array([row])
        losses.append(cross_entropy(logits(MODEL, ids[:, :-1], adapter), ids[:, 1:]))
        counts.append(len(row) - 1)
    return float(np.average(losses, weights=counts))


def test_events_come_in_the_order_they_are_documented(data: Path, tmp_path: Path) -> None:
    run = train(MODEL, data, tmp_path / "run", iters=4, batch_size=2, eval_every=2, save_every=2)
    kinds = [event["event"] for event in run.events]
    assert kinds[:3] == ["started", "estimated", "evaluated"]
    assert kinds[-1] == "finished"
    assert kinds.count("step") == 4
    assert [event["step"] for event in run.of("evaluated")] == [0, 2, 4]
    assert [event["step"] for event in run.of("step")] == [1, 2, 3, 4]
    assert 2 in [event["step"] for event in run.of("checkpoint")]
    for event in run.of("evaluated"):
        assert event["perplexity"] == pytest.approx(math.exp(event["loss"]), rel=1e-6)


def test_the_report_tells_what_happened(data: Path, tmp_path: Path) -> None:
    run = train(MODEL, data, tmp_path / "run", iters=6, batch_size=2, lr=1e-2)
    report = run.report
    assert report["steps"] == 6
    assert report["train_losses"] == pytest.approx(list(run.losses.values()))
    assert math.isfinite(report["final_loss"])
    assert [step for step, _ in report["validation_losses"]] == [0, 6]
    assert report["validation_losses"][0][1] == pytest.approx(report["loss_before"])
    assert report["validation_losses"][-1][1] == pytest.approx(report["loss_after"])
    assert report["perplexity_before"] == pytest.approx(math.exp(report["loss_before"]))
    assert report["perplexity_after"] == pytest.approx(math.exp(report["loss_after"]))
    assert report["tokens_per_second"] > 0
    assert report["peak_memory_bytes"] > 0
    assert report["training_time_secs"] > 0
    assert report["trainable_parameters"] == sum(value.size for value in run.adapter.values())
    assert Path(report["adapter_path"]).resolve() == run.output.resolve()
    stored = json.loads((run.output / "training.json").read_text())
    assert stored["report"] == report
    assert stored["config"]["lr"] == 1e-2


def test_validation_loss_is_the_mean_over_tokens(data: Path, tmp_path: Path) -> None:
    run = train(MODEL, data, tmp_path / "run", iters=3, batch_size=2, lr=1e-2)
    valid = rows_with_end(data / "valid.jsonl")
    before, after = (event["loss"] for event in run.of("evaluated"))
    assert before == pytest.approx(token_loss(valid), abs=1e-4)
    assert after == pytest.approx(token_loss(valid, run.output), abs=1e-4)
    assert abs(before - after) > 1e-2


def test_every_row_is_seen_once_per_epoch(data: Path, tmp_path: Path) -> None:
    """With a learning rate too small to matter, an epoch's losses average to the data's."""
    run = train(MODEL, data, tmp_path / "run", epochs=1, batch_size=1, lr=1e-12)
    train_rows = rows_with_end(data / "train.jsonl")
    alone = sorted(token_loss([row]) for row in train_rows)
    assert sorted(run.losses.values()) == pytest.approx(alone, abs=1e-4)


def test_loss_falls(data: Path, tmp_path: Path) -> None:
    run = train(MODEL, data, tmp_path / "run", iters=25, batch_size=10, lr=1e-2)
    assert run.losses[25] < run.losses[1] - 2


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"epochs": 2}, 10),
        ({"epochs": 0.4}, 2),
        ({"epochs": 2, "iters": 3}, 3),
        ({"epochs": 1, "batch_size": 4}, 3),
        ({"epochs": 2, "batch_size": 5, "grad_accumulation": 2}, 2),
    ],
)
def test_number_of_steps(data: Path, tmp_path: Path, settings: dict[str, Any], steps: int) -> None:
    run = train(MODEL, data, tmp_path / "run", **{"batch_size": 2, **settings})
    assert list(run.losses) == list(range(1, steps + 1))
    assert run.of("started")[0]["steps"] == steps


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_seed_reproduces_a_run_bit_for_bit(data: Path, tmp_path: Path, dropout: float) -> None:
    settings: dict[str, Any] = {"iters": 7, "batch_size": 2, "lora_dropout": dropout}
    first = train(MODEL, data, tmp_path / "first", seed=3, **settings)
    second = train(MODEL, data, tmp_path / "second", seed=3, **settings)
    other = train(MODEL, data, tmp_path / "other", seed=4, **settings)
    assert first.losses == second.losses
    for name, value in first.adapter.items():
        assert np.array_equal(value, second.adapter[name]), name
    assert first.losses != other.losses


def test_dropout_acts_in_training_only(data: Path, tmp_path: Path) -> None:
    same: dict[str, Any] = {"iters": 4, "batch_size": 10, "lr": 1e-2}
    without = train(MODEL, data, tmp_path / "without", **same)
    dropped = train(MODEL, data, tmp_path / "dropped", lora_dropout=0.5, **same)
    # B is zero at first, so the adapter's inputs matter from the second step on.
    assert without.losses[1] == dropped.losses[1]
    assert abs(without.losses[4] - dropped.losses[4]) > 1e-3
    valid = rows_with_end(data / "valid.jsonl")
    assert dropped.report["loss_after"] == pytest.approx(token_loss(valid, dropped.output), abs=1e-4)


def test_accumulated_batches_equal_one_large_batch(data: Path, tmp_path: Path) -> None:
    """Weighted by tokens: the rows are of different lengths."""
    same: dict[str, Any] = {"iters": 5, "lr": 1e-2, "init_adapter": str(ADAPTER)}
    large = train(MODEL, data, tmp_path / "large", batch_size=10, **same)
    small = train(MODEL, data, tmp_path / "small", batch_size=2, grad_accumulation=5, **same)
    assert largest(list(large.losses.values()), list(small.losses.values())) < 1e-3


def test_gradients_against_finite_differences(tmp_path: Path) -> None:
    """Along random directions, and for each kind of layer by itself."""
    rows = random_ids(4, [12], seed=3)
    data = write_words(tmp_path / "data", rows)
    run, gradients = recovered_gradients(MODEL, data, tmp_path / "run", ADAPTER)
    ids = np.array([[*row, EOS] for row in rows])
    point = tensors(ADAPTER / "adapters.safetensors")

    def loss_at(direction: dict[str, np.ndarray], distance: float) -> float:
        moved = {name: value + distance * direction[name] for name, value in point.items()}
        arrays = {name: value.astype(np.float32) for name, value in moved.items()}
        folder = write_adapter(tmp_path / "moved", arrays, ADAPTER / "adapter_config.json")
        return cross_entropy(logits(MODEL, ids[:, :-1], folder), ids[:, 1:])

    still = {name: np.zeros_like(value) for name, value in point.items()}
    assert loss_at(still, 0.0) == pytest.approx(run.losses[1], abs=1e-5)
    rng = np.random.default_rng(0)
    step = 1e-2
    for layer in PROJECTIONS:
        direction = {
            name: rng.standard_normal(value.shape) * (f".{layer}." in name) for name, value in point.items()
        }
        length = math.sqrt(sum((value**2).sum() for value in direction.values()))
        direction = {name: value / length for name, value in direction.items()}
        slope = (loss_at(direction, step) - loss_at(direction, -step)) / (2 * step)
        assert slope == pytest.approx(sum((gradients[n] * direction[n]).sum() for n in point), abs=5e-4), (
            layer
        )


def test_only_chosen_layers_are_adapted(data: Path, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"], "num_layers": 1, "lora_rank": 3}
    run = train(MODEL, data, tmp_path / "run", iters=1, **chosen)
    shapes = {name: value.shape for name, value in run.adapter.items()}
    assert shapes == {
        "model.layers.1.self_attn.q_proj.lora_a": (48, 3),
        "model.layers.1.self_attn.q_proj.lora_b": (3, 48),
        "model.layers.1.mlp.down_proj.lora_a": (96, 3),
        "model.layers.1.mlp.down_proj.lora_b": (3, 48),
    }


def test_full_training_writes_a_model_folder(data: Path, tmp_path: Path) -> None:
    run = train(MODEL, data, tmp_path / "run", iters=3, batch_size=2, method="full")
    before, after = tensors(MODEL / "model.safetensors"), tensors(run.output / "model.safetensors")
    assert {name: value.shape for name, value in before.items()} == {n: v.shape for n, v in after.items()}
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    model, tokenizer = _core.models.load(str(run.output), None, "float32")
    assert model.model_type == "llama"
    assert tokenizer.encode("t5 t6") == [5, 6]
    valid = rows_with_end(data / "valid.jsonl")
    losses = [cross_entropy(model(np.array([r[:-1]])), np.array([r[1:]])) for r in valid]
    counts = [len(row) - 1 for row in valid]
    assert run.report["loss_after"] == pytest.approx(np.average(losses, weights=counts), abs=1e-4)


def test_old_checkpoints_are_removed(data: Path, tmp_path: Path) -> None:
    kept: list[list[str]] = []

    def look(run: Run, event: Event) -> None:
        if event["event"] == "step":
            kept.append(sorted(path.name for path in (run.output / "checkpoints").glob("step-*")))

    run = train(MODEL, data, tmp_path / "run", look, iters=8, batch_size=2, save_every=2, keep_checkpoints=2)
    assert [event["step"] for event in run.of("checkpoint")][:3] == [2, 4, 6]
    assert kept[0] == kept[1] == []
    assert kept[2] == ["step-0000002"]
    assert kept[4] == ["step-0000002", "step-0000004"]
    assert kept[6] == ["step-0000004", "step-0000006"]
    assert len(list((run.output / "checkpoints").iterdir())) <= 2


@pytest.mark.parametrize("moment", ["started", "evaluated", "step", "checkpoint", "finished"])
def test_an_exception_of_the_observer_reaches_the_caller(data: Path, tmp_path: Path, moment: str) -> None:
    class MineError(Exception):
        pass

    error = MineError("mine")

    def fail(_: Run, event: Event) -> None:
        if event["event"] == moment:
            raise error

    with pytest.raises(MineError) as caught:
        train(MODEL, data, tmp_path / "run", fail, iters=4, batch_size=2, save_every=2)
    assert caught.value is error
    # The lock went with the run.
    train(MODEL, data, tmp_path / "run", iters=1, overwrite=True)
