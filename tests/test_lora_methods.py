"""Ways to adapt a model, on one of two small blocks and on the embedded one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError
from support.engine import FIXTURES, MODELS, largest, logits, tensors, train, write_adapter
from support.rows import random_ids, write_words

SMALL = MODELS / "llama_gqa"
METHODS: dict[str, dict[str, Any]] = {
    "dora": {"method": "dora"},
    "rslora": {"use_rslora": True},
    "loraplus": {"loraplus_lr_ratio": 4.0},
    "pissa": {"lora_init": "pissa"},
    "adalora": {"method": "adalora", "adalora_tinit": 2, "adalora_tfinal": 3},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = random_ids(10, [5, 9, 14, 20], seed=1)
    return write_words(tmp_path / "data", rows, random_ids(3, [8, 13], seed=2))


@pytest.mark.parametrize("name", METHODS)
def test_the_embedded_model_learns(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"iters": 12, "lr": 2e-3, "batch_size": 4, "eval_batches": 2, "num_layers": 2}
    run = train(Path(MODEL), Path(INSTRUCTIONS), tmp_path / "run", **(settings | METHODS[name]))
    assert run.report["loss_after"] < run.report["loss_before"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("bits", [None, 8])
def test_nothing_changes_before_the_first_step_and_the_result_is_what_was_scored(
    name: str, bits: int | None, data: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"iters": 8, "batch_size": 10, "lr": 1e-2, "lora_dropout": 0.1, "bits": bits}
    plain = train(SMALL, data, tmp_path / "plain", **settings)
    run = train(SMALL, data, tmp_path / "run", **(settings | METHODS[name]))
    assert run.report["loss_before"] == pytest.approx(plain.report["loss_before"], abs=1e-4)
    again = train(
        SMALL,
        data,
        tmp_path / "again",
        iters=1,
        lr=1e-12,
        bits=bits,
        method="dora" if name == "dora" else "lora",
        init_adapter=str(run.output),
    )
    assert again.report["loss_before"] == pytest.approx(run.report["loss_after"], abs=1e-4)


def test_adalora_moves_ranks(data: Path, tmp_path: Path) -> None:
    run = train(SMALL, data, tmp_path / "run", iters=12, lr=1e-2, lora_rank=4, **METHODS["adalora"])
    pattern = run.report["rank_pattern"]
    # Fourteen layers that began with rank 6.
    assert len(pattern) == 14
    assert sum(pattern.values()) == 14 * 4
    assert len(set(pattern.values())) > 1
    settings = json.loads((run.output / "adapter_config.json").read_text())["lora_parameters"]
    assert settings["rank_pattern"] == pattern
    assert settings["rank"] == max(pattern.values()) <= 6
    for path, rank in pattern.items():
        b = run.adapter[f"{path}.lora_b"]
        assert b.shape[0] == settings["rank"]
        assert np.count_nonzero(np.abs(b).max(1)) == rank
        assert f"{path}.lora_e" not in run.adapter
    ids = random_ids(1, [9], seed=3)
    assert largest(logits(SMALL, ids, run.output), logits(SMALL, ids)) > 1e-2


def test_magnitudes_of_files_are_checked(tmp_path: Path) -> None:
    made = FIXTURES / "methods" / "dora" / "initial"
    values = tensors(made / "adapters.safetensors")
    name = "model.layers.0.self_attn.q_proj.m"
    without = {key: value for key, value in values.items() if key != name}
    short = values | {name: values[name][:-1]}
    alone = {key: value for key, value in values.items() if key != name.replace(".m", ".lora_a")}
    for i, (damaged, message) in enumerate(
        [
            (without, 'q_proj.m" is missing'),
            (short, "does not fit a layer with 48"),
            (alone, "only one of lora_a and lora_b"),
        ]
    ):
        folder = write_adapter(tmp_path / str(i), damaged, made / "adapter_config.json")
        with pytest.raises(ModelLoadingError, match=message):
            logits(SMALL, [[5]], folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lora_init": "pissa", "lora_rank": 49},
            r"rank .lora_rank, rank_pattern. is 49.*48 singular values",
        ),
        ({"lora_init": "pizza"}, "pissa_niter_N"),
        ({"method": "adalora", "adalora_tinit": 3, "adalora_tfinal": 1}, r"adalora_tinit \(3\).*of 4"),
        ({"adalora_tinit": 3}, 'adalora_tinit is for method "adalora", not for "lora"'),
        ({"method": "dora", "lora_init": "pissa"}, 'lora_init is for method "lora", not for "dora"'),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(SMALL, data, tmp_path / "run", iters=4, **settings)
