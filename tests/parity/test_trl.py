"""Training on preferences, against curves that TRL's trainers recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from support.engine import FIXTURES, MODELS, largest, recovered_gradients, tensors, train
from support.rows import write_jsonl

if TYPE_CHECKING:
    from support.figures import Check

FOLDER = FIXTURES / "preferences"
MODEL = MODELS / "llama_gqa"
MADE = json.loads((FOLDER / "pairs.json").read_text())
WANT = tensors(FOLDER / "expected.safetensors")
LIMIT = 1e-5

DPO = {"objective": "dpo", "dpo_beta": MADE["beta"]}
ORPO = {"objective": "orpo", "orpo_lambda": MADE["lambda"]}
CASES: dict[str, dict[str, Any]] = {
    "dpo": DPO,
    "smoothed_dpo": {**DPO, "dpo_label_smoothing": MADE["smoothing"]},
    "orpo": {**ORPO, "mask_prompt": False},
    "orpo_answers": ORPO,
}
CUTS: dict[str, dict[str, Any]] = {
    "at once": {"batch_size": 5},
    "accumulated": {"batch_size": 1, "grad_accumulation": 5},
    "recomputed": {"batch_size": 5, "grad_checkpoint": 1},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "valid"):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", MADE["pairs"])
    return tmp_path / "data"


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", CASES)
def test_curves(name: str, cut: str, data: Path, tmp_path: Path, figure: Check) -> None:
    """However the step is cut into batches."""
    losses = WANT[f"{name}.losses"]
    run = train(
        MODEL,
        data,
        tmp_path / "run",
        iters=len(losses),
        init_adapter=str(FIXTURES / "lora" / "initial"),
        **CASES[name],
        **CUTS[cut],
    )
    assert losses[0] - losses[-1] > 0.3, "the fixture must learn something"
    figure(f"trl {name} loss, {len(losses)} steps, {cut}", largest(list(run.losses.values()), losses), LIMIT)
    # What is scored before the first step is what the first step saw.
    assert run.of("evaluated")[0]["loss"] == pytest.approx(losses[0], abs=LIMIT)
    if f"{name}.margins" in WANT:
        for key, events in (("margins", "reward_margin"), ("accuracies", "reward_accuracy")):
            got = [event[events] for event in run.of("step")]
            figure(f"trl {name} reward {key}, {cut}", largest(got, WANT[f"{name}.{key}"]), LIMIT)


def test_reference(data: Path, tmp_path: Path, figure: Check) -> None:
    """Log-probabilities of all answers before the training, as a checkpoint keeps them."""
    for name, adapter in (("reference", "initial"), ("moved", "gradient")):
        run = train(
            MODEL,
            data,
            tmp_path / name,
            iters=2,
            save_every=1,
            batch_size=2,
            init_adapter=str(FIXTURES / "lora" / adapter),
            **DPO,
        )
        stored = json.loads((run.output / "checkpoints" / "reference.json").read_text())
        assert stored["train"] == stored["valid"]
        got = np.reshape(stored["train"], (-1, 2))
        figure(f"trl log-probabilities, {name}", largest(got, WANT[name]) / np.abs(WANT[name]).max(), 1e-6)


def test_orpo_gradients(data: Path, tmp_path: Path, figure: Check) -> None:
    initial = FIXTURES / "lora" / "gradient"
    _, got = recovered_gradients(MODEL, data, tmp_path / "run", initial, batch_size=5, **ORPO)
    prefix = "orpo_answers.gradient."
    theirs = {key.removeprefix(prefix): value for key, value in WANT.items() if key.startswith(prefix)}
    assert got.keys() == theirs.keys()
    figure("trl orpo gradients", max(largest(got[name], theirs[name]) for name in theirs), LIMIT)
