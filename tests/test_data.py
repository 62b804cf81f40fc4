"""The same rows give the same run, whatever file they stand in and however they share a batch."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit import _core
from support.engine import MODELS, train
from support.rows import random_ids, words, write_jsonl, write_words

MODEL = MODELS / "llama_gqa"

ROWS = [
    {"prompt": words(ids[:4]), "completion": f" {words(ids[4:])}"}
    for ids in random_ids(9, [7, 12, 9], seed=5)
]


def losses(data: Path | str, output: Path, **settings: Any) -> list[float]:
    return list(train(MODEL, Path(data), output, iters=4, **settings).losses.values())


def test_formats_are_alike(tmp_path: Path) -> None:
    renamed = [{"question": row["prompt"], "answer": row["completion"]} for row in ROWS]
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    with (tmp_path / "b.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(renamed)
    expected = losses(tmp_path / "a.jsonl", tmp_path / "jsonl")
    assert losses(tmp_path / "a.json", tmp_path / "json") == expected
    columns = ["prompt=question", "completion=answer"]
    assert losses(tmp_path / "b.csv", tmp_path / "csv", columns=columns) == expected


def test_a_weight_is_how_often_rows_come(tmp_path: Path) -> None:
    once = write_words(tmp_path / "once", [[5, 6, 7], [8, 9, 10]])
    report = train(MODEL, once, tmp_path / "a", epochs=1.0, batch_size=1).report
    assert report["steps"] == 2
    other = write_words(tmp_path / "other", [[11, 12]])
    report = train(MODEL, Path(f"{once}=3,{other}"), tmp_path / "b", epochs=1.0, batch_size=1).report
    assert report["steps"] == 7


@pytest.mark.parametrize(
    "family", ["llama_gqa", "mistral_window", "gemma2", "gpt_oss", "lfm2", "phi3_crossing", "smollm3"]
)
def test_packed_rows_learn_what_they_learn_alone(tmp_path: Path, family: str) -> None:
    ids = random_ids(9, [7, 12, 9, 4], seed=6, vocab_size=96)
    data = write_words(tmp_path / "data", ids)
    settings: dict[str, Any] = {"iters": 4, "batch_size": len(ids), "max_seq_length": 32}
    alone = train(MODELS / family, data, tmp_path / "alone", **settings)
    packed = train(MODELS / family, data, tmp_path / "packed", **settings, packing=True)
    np.testing.assert_allclose(list(packed.losses.values()), list(alone.losses.values()), rtol=2e-5)
    # What is counted is what is learned, not how it lies in memory.
    assert packed.report["trained_tokens"] == alone.report["trained_tokens"]
    assert packed.report["loss_after"] == pytest.approx(alone.report["loss_after"], rel=2e-5)


def test_a_packed_epoch_has_fewer_steps(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", random_ids(40, [7, 12, 9, 4], seed=7))
    settings: dict[str, Any] = {"epochs": 1.0, "batch_size": 2, "max_seq_length": 64}
    alone = train(MODEL, data, tmp_path / "alone", **settings).report
    packed = train(MODEL, data, tmp_path / "packed", **settings, packing=True).report
    assert (alone["steps"], packed["steps"]) == (20, 3)


def test_what_the_data_hold(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", [[5, 6, 7], [5, 6, 7], list(range(3, 40))])
    settings = json.dumps({"data": str(data), "max_seq_length": 16})
    train_split = json.loads(_core.lora.validate(*_core.models.load(str(MODEL), None, None), settings))[
        "train"
    ]
    assert train_split["lengths"] == {
        "min": 4,
        "median": 4,
        "mean": pytest.approx(46 / 3),
        "p95": 38,
        "max": 38,
    }
    assert train_split["duplicates"] == 1
    assert train_split["vocabulary"] == 38
    assert (train_split["kept_tokens"], train_split["trained_tokens"]) == (24, 21)
    assert (train_split["packed_rows"], train_split["packing_efficiency"]) == (2, 0.75)
    assert sum(bar["rows"] for bar in train_split["histogram"]) == 3
