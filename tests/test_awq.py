"""AWQ from end to end: what the result is, interrupted runs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit import _core
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError, ToolkitError
from support.engine import MODELS, largest, logits, tensors
from support.rows import random_ids, write_words

if TYPE_CHECKING:
    from support.figures import Check

MODEL = MODELS / "llama_bias"
WEIGHTS = "model.safetensors"
NORM = "model.layers.{}.input_layernorm.weight"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_words(tmp_path / "data", random_ids(20, [30], seed=4))


def quantize(model: Path, data: Path | None, output: Path, observer: Any = None, **settings: Any) -> Any:
    config = {
        "technique": "awq",
        "bits": 4,
        "group_size": 32,
        "calibration": data and str(data),
        "calibration_sequences": 8,
        "sequence_length": 32,
        "output": str(output),
        **settings,
    }
    loaded, tokenizer = _core.models.load(str(model))
    observer = observer or (lambda _: None)
    return json.loads(_core.quantize.quantize(loaded, tokenizer, json.dumps(config), observer))


def test_mlx_lm_computes_the_same(data: Path, tmp_path: Path, figure: Check) -> None:
    report = quantize(MODEL, data, tmp_path / "out")
    techniques = {layer["path"]: layer["technique"] for layer in report["layers"]}
    assert techniques["model.layers.0.mlp.down_proj"] == "awq"
    assert techniques["model.embed_tokens"] == "rtn"
    before, after = tensors(MODEL / WEIGHTS), tensors(tmp_path / "out" / WEIGHTS)
    assert all(largest(before[NORM.format(i)], after[NORM.format(i)]) > 1e-3 for i in range(2))
    ids = np.array(random_ids(3, [17], seed=5), dtype=np.int32)
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    mx.disable_compile()
    try:
        import mlx_lm

        model, _ = mlx_lm.load(str(tmp_path / "out"))
        theirs = np.array(model(mx.array(ids)).astype(mx.float32))
    finally:
        mx.enable_compile()
        mx.set_default_device(device)
    ours = logits(tmp_path / "out", ids)
    assert largest(ours, logits(MODEL, ids)) > 1e-3, "the checkpoint is not quantized"
    figure("mlx-lm awq logits", largest(ours, theirs), 1e-4)


def test_gptq_rounds_what_is_scaled(data: Path, tmp_path: Path) -> None:
    report = quantize(MODEL, data, tmp_path / "out", awq_rounding="gptq")
    techniques = {layer["path"]: layer["technique"] for layer in report["layers"]}
    assert techniques["model.layers.0.mlp.down_proj"] == "awq, gptq"
    assert techniques["model.embed_tokens"] == "rtn"
    with pytest.raises(ConfigError, match="awq_rounding: expected rtn or gptq"):
        quantize(MODEL, data, tmp_path / "other", awq_rounding="learned")


def test_an_interrupted_run_is_resumed_with_its_norms(data: Path, tmp_path: Path) -> None:
    def stop(text: str) -> None:
        if json.loads(text)["event"] == "progress":
            raise RuntimeError

    quantize(MODEL, data, tmp_path / "whole")
    with pytest.raises(RuntimeError):
        quantize(MODEL, data, tmp_path / "part", stop)
    assert not (tmp_path / "part" / WEIGHTS).exists()
    quantize(MODEL, data, tmp_path / "part", resume=True)
    whole, part = (tensors(tmp_path / name / WEIGHTS) for name in ("whole", "part"))
    assert whole.keys() == part.keys()
    for name, expected in whole.items():
        np.testing.assert_array_equal(part[name], expected, err_msg=name)


def test_it_is_not_another_technique_that_is_resumed(data: Path, tmp_path: Path) -> None:
    def stop(text: str) -> None:
        if json.loads(text)["event"] == "progress":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        quantize(MODEL, data, tmp_path / "out", stop, technique="gptq")
    with pytest.raises(ConfigError, match='technique "gptq", not "awq"'):
        quantize(MODEL, data, tmp_path / "out", resume=True)


def test_it_needs_calibration_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='"awq" needs calibration text: set calibration'):
        quantize(MODEL, None, tmp_path / "out")
    short = write_words(tmp_path / "data", random_ids(1, [5], seed=4))
    with pytest.raises(ToolkitError, match="too few for one calibration sequence"):
        quantize(MODEL, short, tmp_path / "out")
    with pytest.raises(ConfigError, match="awq"):
        quantize(MODEL, None, tmp_path / "out", technique="awk")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_named(data: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    broken = tmp_path / "model"
    broken.mkdir()
    for file in MODEL.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = {name: np.array(value) for name, value in tensors(MODEL / WEIGHTS).items()}
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    save_file(weights, broken / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelLoadingError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        quantize(broken, data, tmp_path / "out")
    assert not (tmp_path / "out" / WEIGHTS).exists()
