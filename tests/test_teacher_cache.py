"""The teacher's predictions on disk: what they give, what they weigh, and how they outlive accidents."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit.callbacks.events import Event, Progress
from efficientai_toolkit.distill import distill
from support.rows import random_ids, write_words
from test_distillation import (
    LOSSES,
    PLAIN,
    ROWS,
    STUDENT,
    TEACHER,
    VALID,
    before,
    divergence,
    loaded,
    predictions,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_words(tmp_path / "data", ROWS, VALID)


def progress(events: list[Event]) -> list[tuple[int, int]]:
    return [(e.done, e.total) for e in events if isinstance(e, Progress) and e.stage == "teacher"]


def test_stored_predictions_give_the_loss_over_the_most_likely_tokens(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for top_k in (256, 7):
        cached: dict[str, Any] = {
            "teacher": TEACHER,
            "data": data,
            "teacher_cache": cache,
            "teacher_top_k": top_k,
        }
        events: list[Event] = []
        first = distill(STUDENT, output=tmp_path / f"a{top_k}", callback=events.append, **cached, **PLAIN)
        assert progress(events) == [(13, 13)]
        expected = []
        for row in VALID:
            p, q, _ = predictions(row)
            order = np.argsort(-p, -1)[:, :top_k]
            p, q = np.take_along_axis(p, order, -1), np.take_along_axis(q, order, -1)
            rest = [np.log(np.maximum(1 - np.exp(x).sum(-1, keepdims=True), 1e-6)) for x in (p, q)]
            p, q = np.concatenate([p, rest[0]], -1), np.concatenate([q, rest[1]], -1)
            expected += list(divergence(p, q, LOSSES[0]))
        assert before(first) == pytest.approx(np.mean(expected), rel=0.01)
        # Another run does not ask the teacher, and ends as the first.
        events.clear()
        second = distill(STUDENT, output=tmp_path / f"b{top_k}", callback=events.append, **cached, **PLAIN)
        assert progress(events) == []
        assert second.metrics["train_losses"] == first.metrics["train_losses"]
    assert len(list(cache.iterdir())) == 2


def test_interrupted_and_damaged_predictions_are_completed(tmp_path: Path) -> None:
    rows = random_ids(500, [40], seed=5)
    data = write_words(tmp_path / "data", rows, VALID)
    settings: dict[str, Any] = {
        "teacher": TEACHER,
        "data": data,
        "teacher_cache": tmp_path / "cache",
        "teacher_top_k": 10,
    }
    events: list[Event] = []

    def stop(event: Event) -> None:
        events.append(event)
        if isinstance(event, Progress) and event.stage == "teacher":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(STUDENT, output=tmp_path / "one", callback=stop, **settings, **PLAIN)
    [(done, total)] = progress(events)
    assert done < total == 503
    events.clear()
    distill(STUDENT, output=tmp_path / "two", callback=events.append, **settings, **PLAIN)
    assert progress(events)[-1] == (total - done, total - done)
    files = sorted((tmp_path / "cache").rglob("*.topk"))
    assert sum(file.stat().st_size for file in files) < 160 * sum(map(len, rows))
    damaged = bytearray(files[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    files[0].write_bytes(damaged)
    events.clear()
    distill(STUDENT, output=tmp_path / "three", callback=events.append, **settings, **PLAIN)
    assert 0 < progress(events)[-1][1] < total


def test_another_teacher_has_predictions_of_its_own(data: Path, tmp_path: Path) -> None:
    other = copytree(TEACHER, tmp_path / "other")
    weights = loaded(other)
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    mx.save_safetensors(str(other / "model.safetensors"), weights, {"format": "pt"})
    losses = [
        before(
            distill(
                STUDENT,
                teacher=teacher,
                data=data,
                output=tmp_path / f"out-{teacher.name}",
                teacher_cache=tmp_path / "cache",
                **PLAIN,
            )
        )
        for teacher in (TEACHER, other)
    ]
    assert losses[0] != pytest.approx(losses[1], rel=0.01)
