"""Scales and biases that are learned from the original model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._base.assets import INSTRUCTIONS
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.quantize import QuantizeResult, quantize
from support.engine import tensors

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.events import Event

SETTINGS: dict[str, Any] = {
    "technique": "learned",
    "bits": 3,
    "calibration": str(INSTRUCTIONS),
    "calibration_sequences": 16,
    "sequence_length": 64,
}


def run(output: Path, **settings: Any) -> QuantizeResult:
    return quantize(output=str(output), **{**SETTINGS, **settings})


def divergence(folder: Path, file: str) -> float:
    """Divergence from the embedded model on rows of the bundled data."""
    original, tokenizer = eat.load(None)
    model, _ = eat.load(str(folder))
    lines = (INSTRUCTIONS / file).read_text(encoding="utf-8").splitlines()
    ids = tokenizer.encode(" ".join(lines))
    rows = [ids[start : start + 128] for start in range(0, 128 * 8, 128)]
    return float(json.loads(core.evaluate.divergence(model, original, rows))["mean_kl"])


@pytest.mark.parametrize("start", ["rtn", "gptq"])
def test_learning_brings_the_model_closer_to_the_original(start: str, tmp_path: Path) -> None:
    text = {"calibration_sequences": 32, "sequence_length": 128}
    plain = run(tmp_path / "plain", technique=start, **text)
    learned = run(tmp_path / "learned", learned_start=start, **text)
    assert learned.divergence is not None
    before, after = learned.divergence
    assert after < before
    assert plain.divergence is None
    # So little text teaches the better start less than other rows would tell.
    for file in ("train.jsonl", "valid.jsonl") if start == "rtn" else ():
        assert divergence(learned.output, file) < divergence(plain.output, file), file
    assert {layer.technique for layer in learned.layers} == {f"{start}, learned", "rtn, learned"} - (
        {"gptq, learned"} if start == "rtn" else set()
    )
    old, new = (tensors(result.output / "model.safetensors") for result in (plain, learned))
    assert old.keys() == new.keys()
    for name, value in new.items():
        # The codes are those of the start, and scales have its dtype.
        assert value.dtype == old[name].dtype, name
        if not name.endswith((".scales", ".biases")):
            assert np.array_equal(value, old[name]), name
    assert not (learned.output / "checkpoints").exists()


@pytest.mark.parametrize(("kind", "count"), [("Progress", 3), ("Progress", 19), ("Step", 21)])
def test_a_resumed_run_ends_like_an_uninterrupted_one(kind: str, count: int, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    seen = 0

    def stop(event: Event) -> None:
        nonlocal seen
        seen += type(event).__name__ == kind
        if seen == count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(output=str(tmp_path / "part"), callback=stop, **SETTINGS)
    assert (tmp_path / "part" / "checkpoints").exists()
    rest = run(tmp_path / "part", resume=True)
    assert rest.divergence == whole.divergence
    expected, found = (tensors(result.output / "model.safetensors") for result in (whole, rest))
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())


def test_what_does_not_help_is_not_kept(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", technique="gptq")
    learned = run(tmp_path / "learned", learned_lr=10.0)
    assert learned.divergence is not None
    assert learned.divergence[0] == learned.divergence[1]
    assert all("learned" not in layer.technique for layer in learned.layers)
    old, new = (tensors(result.output / "model.safetensors") for result in (plain, learned))
    assert all(np.array_equal(value, new[name]) for name, value in old.items())


def test_a_resumed_run_keeps_its_settings(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if type(event).__name__ == "Step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(output=str(tmp_path / "part"), callback=stop, **SETTINGS)
    with pytest.raises(ConfigError, match="learned_lr"):
        run(tmp_path / "part", resume=True, learned_lr=1e-4)


def test_gradient_checkpoints_change_nothing(tmp_path: Path) -> None:
    kept, again = (run(tmp_path / str(every), learned_grad_checkpoint=every) for every in (0, 2))
    assert kept.divergence is not None
    assert again.divergence is not None
    assert all(
        math.isclose(a, b, rel_tol=1e-4) for a, b in zip(kept.divergence, again.divergence, strict=True)
    )


def test_a_format_without_biases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no layer has any"):
        run(tmp_path / "out", mode="mxfp4", bits=4, layers={"*": "mxfp4"})
    assert not (tmp_path / "out" / "model.safetensors").exists()
