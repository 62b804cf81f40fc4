"""Checkpoints that mlx-lm quantized: read as they are, fine-tuned, and merged."""

# ruff: noqa: PLR0917, because pytest passes fixtures by name
from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.adapters import fuse
from efficientai_toolkit.exceptions import ConfigError
from support.engine import computes_packed, largest, logits, train
from support.models import wide_llama
from support.rows import random_ids, write_words

if TYPE_CHECKING:
    from support.figures import Check

FLOATS = [(4, 32, "mxfp4"), (8, 32, "mxfp8"), (4, 16, "nvfp4")]
FORMATS = [*product((2, 3, 4, 5, 6, 8), (32, 64, 128), ("affine",)), *FLOATS]
CLOSE = 1e-4


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_llama(tmp_path_factory.mktemp("wide") / "model")


@pytest.fixture
def ids() -> np.ndarray:
    return np.array(random_ids(3, [17], seed=5), dtype=np.int32)


def quantized(
    mlx_lm: ModuleType,
    dense: Path,
    folder: Path,
    bits: int,
    group_size: int,
    mode: str,
    dtype: str = "bfloat16",
) -> tuple[Path, Any]:
    """What ``mlx_lm.convert`` writes, and mlx-lm's model of it."""
    shutil.copytree(dense, folder)
    model, config = mlx_lm.utils.load_model(dense)
    model.set_dtype(getattr(mx, dtype))
    model, config = mlx_lm.utils.quantize_model(model, config, group_size, bits, mode)
    mlx_lm.utils.save_model(folder, model)
    mlx_lm.utils.save_config(config, folder / "config.json")
    return folder, model


@pytest.mark.parametrize(("bits", "group_size", "mode"), FORMATS)
def test_logits_are_those_of_the_dequantized_model(
    mlx_lm: ModuleType,
    bits: int,
    group_size: int,
    mode: str,
    dense: Path,
    ids: np.ndarray,
    tmp_path: Path,
    figure: Check,
) -> None:
    folder, theirs = quantized(mlx_lm, dense, tmp_path / "packed", bits, group_size, mode)
    theirs.set_dtype(mx.float32)
    want = np.array(mlx_lm.utils.dequantize_model(theirs)(mx.array(ids)))
    assert largest(want, logits(dense, ids)) > 100 * CLOSE, "the checkpoint is not quantized"
    model, _ = eat.load(folder, dtype="float32")
    assert model.num_parameters == eat.load(dense)[0].num_parameters
    assert computes_packed(folder), "the model is not packed"
    figure(f"mlx-lm {mode} {bits} bits, groups of {group_size}", largest(model(ids), want), CLOSE)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_words(tmp_path / "data", random_ids(4, [24], seed=6))


def test_an_adapter_is_trained_and_merged_at_4_bits(
    mlx_lm: ModuleType, dense: Path, rows: Path, ids: np.ndarray, tmp_path: Path, figure: Check
) -> None:
    base, _ = quantized(mlx_lm, dense, tmp_path / "base", 4, 64, "affine")
    run = train(base, rows, tmp_path / "adapter", iters=15, lr=1e-2)
    assert run.losses[15] < run.losses[1] - 0.3
    result = fuse(base, run.output, tmp_path / "merged")
    assert result.quantized
    stored, before = (mx.load(str(folder / "model.safetensors")) for folder in (tmp_path / "merged", base))
    assert {name: (v.shape, v.dtype) for name, v in stored.items()} == {
        name: (v.shape, v.dtype) for name, v in before.items()
    }
    want, merged = logits(base, ids, run.output), logits(tmp_path / "merged", ids)
    assert largest(merged, want) < 0.5 * largest(logits(base, ids), want)
    model, _ = mlx_lm.utils.load_model(tmp_path / "merged")
    model.set_dtype(mx.float32)
    figure("mlx-lm reads a model merged at 4 bits", largest(merged, np.array(model(mx.array(ids)))), CLOSE)


def test_mxfp4_is_not_written_again(mlx_lm: ModuleType, dense: Path, rows: Path, tmp_path: Path) -> None:
    base, _ = quantized(mlx_lm, dense, tmp_path / "base", 4, 32, "mxfp4")
    run = train(base, rows, tmp_path / "adapter", iters=3, lr=1e-2)
    with pytest.raises(ConfigError, match=r"_proj\" is quantized as MXFP4, .*: set dequantize"):
        fuse(base, run.output, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("mode", "dtype", "share"),
    [
        ("affine", "float32", 1e-4),
        ("affine", "bfloat16", 0.05),
        ("mxfp4", "float32", 1e-4),
        ("mxfp4", "bfloat16", 0.05),
    ],
)
def test_a_model_of_4_bits_is_merged_and_dequantized(
    mlx_lm: ModuleType,
    mode: str,
    dtype: str,
    share: float,
    dense: Path,
    rows: Path,
    ids: np.ndarray,
    tmp_path: Path,
) -> None:
    base, _ = quantized(mlx_lm, dense, tmp_path / "base", 4, 32, mode, dtype)
    run = train(base, rows, tmp_path / "adapter", iters=15, lr=1e-2)
    assert run.losses[15] < run.losses[1] - 0.3
    result = fuse(base, run.output, tmp_path / "merged", dequantize=True)
    assert (result.quantized, result.dtype) == (False, dtype)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert not {"quantization", "quantization_config"} & config.keys()
    want = logits(base, ids, run.output)
    assert largest(logits(tmp_path / "merged", ids), want) < share * largest(logits(base, ids), want)
