"""Fine-tuning of pruned models: zeros stay zeros, whatever is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit.adapters import fuse
from efficientai_toolkit.exceptions import ModelLoadingError
from efficientai_toolkit.prune import prune
from support.engine import Run, logits, tensors, train
from support.rows import random_ids, write_words
from test_quantization import make_model

IDS = np.array(random_ids(2, [24], seed=4))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = random_ids(24, [24], seed=1)
    return write_words(tmp_path / "data", rows, rows[:4])


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A model with two zeros in every four weights."""
    model = make_model("llama_tied", tmp_path / "model", "bfloat16")
    return prune(model, method="magnitude", pattern="2:4", output=str(tmp_path / "sparse")).output


def zeros(folder: Path) -> dict[str, np.ndarray]:
    stored = tensors(folder / "model.safetensors")
    return {
        name: np.asarray(value, np.float32) == 0
        for name, value in stored.items()
        if name.endswith("_proj.weight")
    }


def check(before: Path, after: Path) -> None:
    """The zeros of one folder are those of the other, and other weights have changed."""
    expected, found = zeros(before), zeros(after)
    assert len(expected) == 21
    assert all(found[name][mask].all() and (mask.mean() >= 0.5) for name, mask in expected.items())
    old, new = tensors(before / "model.safetensors"), tensors(after / "model.safetensors")
    changed = [name for name in expected if not np.array_equal(old[name], new[name])]
    assert len(changed) == 21
    # And so they do in the next run.
    assert (after / "pruning.json").read_text() == (before / "pruning.json").read_text()


def test_full_training_keeps_zeros_and_resumes_exactly(tmp_path: Path, sparse: Path, data: Path) -> None:
    settings: dict[str, Any] = {
        "method": "full",
        "iters": 6,
        "lr": 1e-2,
        "batch_size": 2,
        "save_every": 2,
        "weight_decay": 0.1,
    }
    whole = train(sparse, data, tmp_path / "whole", **settings)
    check(sparse, whole.output)

    def stop(_: Run, event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(sparse, data, tmp_path / "stopped", stop, **settings)
    resumed = train(sparse, data, tmp_path / "stopped", resume=True, **settings)
    ours, theirs = (tensors(run.output / "model.safetensors") for run in (resumed, whole))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_adapters_are_merged_through_the_mask(tmp_path: Path, sparse: Path, data: Path) -> None:
    run = train(sparse, data, tmp_path / "adapter", iters=4, lr=1e-1, batch_size=2)
    report = fuse(sparse, run.output, tmp_path / "fused")
    check(sparse, tmp_path / "fused")
    assert report.kept > 0.5
    assert np.isfinite(logits(tmp_path / "fused", IDS)).all()


def test_without_a_report_every_weight_is_trained(tmp_path: Path, sparse: Path, data: Path) -> None:
    (sparse / "pruning.json").unlink()
    run = train(sparse, data, tmp_path / "run", method="full", iters=2, lr=1e-2)
    assert all(mask.mean() < 0.1 for mask in zeros(run.output).values())


@pytest.mark.parametrize("text", ["{", "[]", '{"report": {}}'])
def test_a_damaged_report_is_named(tmp_path: Path, sparse: Path, data: Path, text: str) -> None:
    (sparse / "pruning.json").write_text(text)
    with pytest.raises(ModelLoadingError, match=r"pruning\.json"):
        train(sparse, data, tmp_path / "run", method="full", iters=1)
