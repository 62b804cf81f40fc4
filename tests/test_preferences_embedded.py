"""Preferences on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
from support.engine import train
from support.pairs import OBJECTIVES, Row, write


def capitals(split: str) -> list[Row]:
    """The bundled answers, of which those in capitals are preferred."""
    lines = (Path(INSTRUCTIONS) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        {"prompt": row["prompt"], "chosen": row["completion"].upper(), "rejected": row["completion"]}
        for row in rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_embedded_model_learns_a_preference(objective: str, tmp_path: Path) -> None:
    """On rows that it has not seen: it would not have written in capitals."""
    data = write(tmp_path / "data", capitals("train"), capitals("valid"))
    run = train(
        Path(MODEL),
        data,
        tmp_path / "run",
        iters=15,
        lr=1e-3,
        objective=objective,
        num_layers=2,
        eval_batches=5,
    )
    before, after = run.report["rewards_before"], run.report["rewards_after"]
    assert before["accuracy"] == 0
    assert after["accuracy"] >= 0.95
    assert after["margin"] > before["margin"] + 0.2
    assert run.report["loss_after"] < run.report["loss_before"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_quantized_weights(objective: Any, tmp_path: Path) -> None:
    data = write(tmp_path / "data", capitals("valid")[:12], capitals("valid")[12:16])
    config = TrainingConfig(
        data=str(data),
        output=str(tmp_path / "run"),
        objective=objective,
        bits=4,
        iters=6,
        lr=1e-3,
        num_layers=2,
    )
    metrics = MLXTrainer(config).train().metrics
    before, after = metrics["rewards_before"], metrics["rewards_after"]
    assert before["margin"] == 0 if objective == "dpo" else before["margin"] < 0
    assert after["margin"] > before["margin"] + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_budget_divides_batches_but_no_pair(objective: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data", capitals("train")[:60], capitals("valid")[:12])
    settings: dict[str, Any] = {"iters": 4, "batch_size": 8, "objective": objective, "num_layers": 2}
    free = train(Path(MODEL), data, tmp_path / "free", **settings)
    tight = train(Path(MODEL), data, tmp_path / "tight", **settings, memory_budget_gb=0.06)
    assert free.report["memory"]["rows"] == 16
    assert tight.report["memory"]["rows"] in (2, 4, 6, 8)
    assert tight.report["memory"]["peak"] <= 60_000_000
    for losses in ("train_losses", "validation_losses"):
        np.testing.assert_allclose(tight.report[losses], free.report[losses], rtol=1e-4, atol=1e-5)
    for key in ("accuracy", "margin"):
        assert tight.report["rewards_after"][key] == pytest.approx(
            free.report["rewards_after"][key], rel=1e-3
        )
