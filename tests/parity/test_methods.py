"""Ways to adapt a model beyond plain LoRA, against values that PEFT computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from support.engine import FIXTURES, MODELS, largest, logits, recovered_gradients, tensors, train
from support.rows import write_words

if TYPE_CHECKING:
    from support.figures import Check

METHODS = FIXTURES / "methods"
MODEL = MODELS / "llama_gqa"
LOGITS, GRADIENTS, LOSSES = 1e-4, 1e-4, 1e-3


def expected(method: str) -> dict[str, np.ndarray]:
    return tensors(METHODS / method / "expected.safetensors")


def batch(want: dict[str, np.ndarray], folder: Path) -> Path:
    """The rows of a fixture as a data folder."""
    return write_words(folder / "data", want["ids"][:, :-1].tolist())


def test_dora_logits(figure: Check) -> None:
    want = expected("dora")
    ids = want["ids"][:2, :-1]
    ours = logits(MODEL, ids, METHODS / "dora" / "initial")
    assert largest(ours, logits(MODEL, ids)) > 0.1
    figure("peft dora logits", largest(ours, want["logits"]), LOGITS)


def test_dora_gradients(tmp_path: Path, figure: Check) -> None:
    want = expected("dora")
    initial = METHODS / "dora" / "initial"
    run, got = recovered_gradients(MODEL, batch(want, tmp_path), tmp_path / "run", initial, method="dora")
    theirs = {name.removeprefix("gradient."): g for name, g in want.items() if name.startswith("gradient.")}
    assert got.keys() == theirs.keys()
    assert any(name.endswith(".m") for name in got)
    figure("peft dora loss", abs(run.losses[1] - float(want["loss"])), LOGITS)
    figure("peft dora gradients", max(largest(got[name], theirs[name]) for name in theirs), GRADIENTS)
    relative = max(largest(got[name], theirs[name]) / np.abs(theirs[name]).max() for name in theirs)
    figure("peft dora gradients, relative", relative, LOSSES)


def test_dora_loss_curve(tmp_path: Path, figure: Check) -> None:
    want = expected("dora")
    run = train(
        MODEL,
        batch(want, tmp_path),
        tmp_path / "run",
        iters=len(want["losses"]),
        method="dora",
        init_adapter=str(METHODS / "dora" / "initial"),
    )
    assert want["losses"][0] - want["losses"][-1] > 1, "the fixture must learn something"
    figure("peft dora loss, 20 steps", largest(list(run.losses.values()), want["losses"]), LOSSES)


@pytest.mark.parametrize(("method", "kind"), [("lora", "dora"), ("dora", "lora")])
def test_an_adapter_of_another_type_is_refused(tmp_path: Path, method: str, kind: str) -> None:
    initial = METHODS / "dora" / "initial" if kind == "dora" else FIXTURES / "lora" / "initial"
    data = batch(expected("dora"), tmp_path)
    with pytest.raises(ValueError, match=f'type "{kind}", which method "{method}"'):
        train(MODEL, data, tmp_path / "run", iters=1, method=method, init_adapter=str(initial))


CURVES: dict[str, dict[str, Any]] = {
    "loraplus": {"loraplus_lr_ratio": 8.0, "init_adapter": str(FIXTURES / "lora" / "initial")},
    "pissa": {"lora_init": "pissa"},
}


@pytest.mark.parametrize("name", CURVES)
def test_loss_curves(name: str, tmp_path: Path, figure: Check) -> None:
    want = expected("curves")
    losses = want[name]
    run = train(MODEL, batch(want, tmp_path), tmp_path / "run", iters=len(losses), **CURVES[name])
    assert losses[0] - losses[-1] > 1, "the fixture must learn something"
    figure(f"peft {name} loss, {len(losses)} steps", largest(list(run.losses.values()), losses), LOSSES)


def test_rslora_scale(tmp_path: Path, figure: Check) -> None:
    """An adapter of the scale that rsLoRA has; PEFT's loss from the same start."""
    want = expected("curves")
    data = batch(want, tmp_path)
    made = train(MODEL, data, tmp_path / "made", iters=1, use_rslora=True)
    scale = json.loads((made.output / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    figure("peft rslora scale", abs(scale - float(want["rslora_scale"])), 1e-6)
    start = tmp_path / "start"
    shutil.copytree(FIXTURES / "lora" / "initial", start)
    config = json.loads((start / "adapter_config.json").read_text())
    config["lora_parameters"]["scale"] = scale
    (start / "adapter_config.json").write_text(json.dumps(config))
    run = train(MODEL, data, tmp_path / "run", iters=len(want["rslora"]), init_adapter=str(start))
    figure("peft rslora loss, 20 steps", largest(list(run.losses.values()), want["rslora"]), LOSSES)


def test_pissa_is_saved_for_the_untouched_model(tmp_path: Path, figure: Check) -> None:
    """As PEFT's conversion does it: a plain adapter of twice the rank."""
    want = expected("curves")
    run = train(MODEL, batch(want, tmp_path), tmp_path / "run", iters=len(want["pissa"]), lora_init="pissa")
    settings = json.loads((run.output / "adapter_config.json").read_text())
    assert settings["fine_tune_type"] == "lora"
    assert settings["lora_parameters"]["rank"] == 16
    assert run.adapter["model.layers.0.self_attn.q_proj.lora_a"].shape[1] == 16
    ids = want["ids"][:2, :-1]
    ours = logits(MODEL, ids, run.output)
    assert largest(ours, logits(MODEL, ids)) > 0.1
    # Adam divides noise by noise where a gradient is almost zero.
    figure("peft pissa logits after training", largest(ours, want["pissa_logits"]), 1e-2)


def test_ranks_by_layer_are_those_of_peft(tmp_path: Path, figure: Check) -> None:
    want = expected("ranks")
    data, theirs = batch(want, tmp_path), METHODS / "ranks" / "initial"
    settings = json.loads((theirs / "adapter_config.json").read_text())
    made = train(
        MODEL,
        data,
        tmp_path / "made",
        iters=1,
        lora_rank=settings["r"],
        lora_alpha=settings["lora_alpha"],
        rank_pattern=settings["rank_pattern"],
        adapter_format="peft",
    )
    name = "adapter_model.safetensors"
    shapes = [{key: x.shape for key, x in tensors(folder / name).items()} for folder in (made.output, theirs)]
    assert shapes[0] == shapes[1]
    ours = json.loads((made.output / "adapter_config.json").read_text())
    scales = {key.removeprefix("scale."): float(x) for key, x in want.items() if key.startswith("scale.")}
    assert len(scales) == 14
    for path, scale in scales.items():
        rank = ours["rank_pattern"].get(path, ours["r"])
        alpha = ours["alpha_pattern"].get(path, ours["lora_alpha"])
        assert alpha / rank == pytest.approx(scale, abs=1e-6), path
    figure(
        "peft rank_pattern logits",
        largest(logits(MODEL, want["ids"][:2, :-1], theirs), want["logits"]),
        LOGITS,
    )
    run = train(MODEL, data, tmp_path / "run", iters=len(want["losses"]), init_adapter=str(theirs))
    assert want["losses"][0] - want["losses"][-1] > 1, "the fixture must learn something"
    figure("peft rank_pattern loss, 20 steps", largest(list(run.losses.values()), want["losses"]), LOSSES)
