"""Pruning of whole blocks: which ones go, that the others compute what they did, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.prune import PruneResult, prune
from support.command import PROGRAM, run
from support.engine import largest, logits, tensors
from support.rows import EOS, random_ids, write_words
from test_quantization import make_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

ROW = random_ids(1, [31], seed=2)[0]
IDS = np.array(random_ids(2, [24], seed=4))
SLIDING, FULL = "sliding_attention", "full_attention"
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": {},
    "gemma3_text": {"contiguous": True},
    "gpt_oss": {"layer_types": [SLIDING, FULL, SLIDING, FULL]},
    "lfm2": {"layer_types": ["conv", FULL, "conv", FULL]},
    "lfm2_moe": {"layer_types": ["conv", FULL, "conv", FULL], "num_dense_layers": 2},
    "llama_bias": {},
    "llama_tied": {},
    "mistral_window": {},
    "mixtral": {},
    "phi3": {},
    "qwen2": {"max_window_layers": 2},
    "qwen3": {"max_window_layers": 1},
    "qwen3_moe": {"decoder_sparse_step": 2, "mlp_only_layers": [3]},
    "smollm3": {"layer_types": [FULL] * 4, "no_rope_layers": [1, 0, 1, 0]},
}
"""Changes of the fixtures, which become models of four blocks."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One row over and over: whatever their order, all calibration sequences are this row."""
    return write_words(tmp_path / "data", [ROW] * 8)


@pytest.fixture
def make(tmp_path: Path, data: Path) -> Callable[..., PruneResult]:
    """Remove blocks, by a little calibration text."""

    def prune_model(model: Path, **settings: Any) -> PruneResult:
        chosen: dict[str, Any] = {
            "pattern": "depth",
            "calibration": str(data),
            "calibration_sequences": 4,
            "sequence_length": 32,
            "output": str(tmp_path / "out"),
        }
        return prune(model, **chosen | settings)

    return prune_model


def four_blocks(name: str, folder: Path, **changes: Any) -> Path:
    return make_model(name, folder, num_hidden_layers=4, **changes)


def removed(result: PruneResult) -> list[int]:
    return [number for number, block in enumerate(result.blocks) if block.removed]


def without(model: Path, blocks: list[int], folder: Path) -> Path:
    """A copy of ``model`` in which ``blocks`` add nothing to the residual stream."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    prefixes = tuple(f"model.layers.{block}." for block in blocks)
    weights = {
        name: value * (0 if name.startswith(prefixes) and "norm" not in name else 1)
        for name, value in mx.load(str(model / "model.safetensors")).items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "pt"})
    return folder


def streams(model: Path, mlx_lm: ModuleType) -> list[np.ndarray]:
    """mlx-lm's hidden states in front of every block, and behind the last, on a calibration sequence."""
    loaded, _ = mlx_lm.load(str(model))
    x = loaded.model.embed_tokens(mx.array([[*ROW, EOS]]))
    found = [x]
    for layer in loaded.model.layers:
        x = layer(x, "causal", None)
        found.append(x)
    return [np.asarray(x, np.float64)[0] for x in found]


def influence(x: np.ndarray, y: np.ndarray) -> float:
    cosines = (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))
    return float(1 - cosines.mean())


def test_influence_is_that_of_the_paper(
    make: Callable[..., PruneResult], tmp_path: Path, mlx_lm: ModuleType
) -> None:
    model = four_blocks("llama_gqa", tmp_path / "model")
    x = streams(model, mlx_lm)
    result = make(model, sparsity=0.5)
    expected = [influence(x[i], x[i + 1]) for i in range(4)]
    assert np.allclose([block.influence or 0.0 for block in result.blocks], expected, rtol=1e-3, atol=1e-5)
    assert removed(result) == sorted(np.argsort(expected)[:2])
    consecutive = make(model, sparsity=0.5, contiguous=True, output=str(tmp_path / "consecutive"))
    first = int(np.argmin([influence(x[i], x[i + 2]) for i in range(3)]))
    assert removed(consecutive) == [first, first + 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_other_blocks_compute_what_they_did(
    make: Callable[..., PruneResult], tmp_path: Path, name: str
) -> None:
    changes = dict(FAMILIES[name])
    contiguous = changes.pop("contiguous", False)
    model = four_blocks(name, tmp_path / "model", **changes)
    # Not the last block, so that numbers shift.
    skip = [] if contiguous else ["*.layers.3.*"]
    result = make(model, sparsity=0.5, contiguous=contiguous, skip=skip)
    gone = removed(result)
    assert len(gone) == 2
    assert result.sparsity == 0.5
    ours = logits(result.output, IDS)
    assert largest(ours, logits(without(model, gone, tmp_path / "without"), IDS)) <= 1e-4
    assert largest(ours, logits(model, IDS)) > 1e-3
    config = json.loads((result.output / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    stored = tensors(result.output / "model.safetensors")
    assert result.parameters == result.nonzero == sum(tensor.size for tensor in stored.values())
    assert result.parameters < result.parameters_before
    report = json.loads((result.output / "pruning.json").read_text())["report"]
    assert [block["removed"] for block in report["blocks"]] == [i in gone for i in range(4)]


@pytest.mark.parametrize(
    "name", ["llama_gqa", "qwen2", "qwen3", "phi3", "smollm3", "lfm2", "gemma2", "gemma3_text"]
)
def test_mlx_lm_reads_the_result(
    make: Callable[..., PruneResult], tmp_path: Path, mlx_lm: ModuleType, name: str
) -> None:
    changes = dict(FAMILIES.get(name, {}))
    contiguous = changes.pop("contiguous", False)
    if name in {"smollm3", "gemma3_text"}:
        # Where mlx-lm looks for them.
        changes |= {"rope_parameters": None, "rope_local_base_freq": 1e4}
    if name.startswith("gemma"):
        # mlx-lm's Gemma 2 knows no window, and none cuts these rows.
        changes["sliding_window"] = 64
    if name == "lfm2":
        changes |= {"block_dim": 64, "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0}
        changes |= {"block_auto_adjust_ff_dim": False, "conv_bias": False, "norm_eps": 1e-5}
    result = make(four_blocks(name, tmp_path / "model", **changes), sparsity=0.5, contiguous=contiguous)
    model, _ = mlx_lm.load(str(result.output))
    theirs = np.asarray(model(mx.array(IDS)).astype(mx.float32))
    assert largest(logits(result.output, IDS), theirs) <= 1e-4


def test_at_least_one_block_goes_and_one_stays(make: Callable[..., PruneResult], tmp_path: Path) -> None:
    model = four_blocks("llama_tied", tmp_path / "model")
    assert len(removed(make(model, sparsity=0.01))) == 1
    assert len(removed(make(model, sparsity=0.99, overwrite=True))) == 3
    assert len(removed(make(model, overwrite=True))) == 1


def test_random_blocks_are_those_of_the_seed(tmp_path: Path) -> None:
    model = make_model("llama_tied", tmp_path / "model", num_hidden_layers=8)

    def gone(**settings: Any) -> list[int]:
        return removed(
            prune(
                model,
                pattern="depth",
                method="random",
                sparsity=0.5,
                output=str(tmp_path / "out"),
                overwrite=True,
                **settings,
            )
        )

    assert gone(seed=1) == gone(seed=1)
    assert len({tuple(gone(seed=seed)) for seed in range(4)}) > 1
    consecutive = gone(contiguous=True)
    assert consecutive == list(range(consecutive[0], consecutive[0] + 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity is 1, expected a value between 0 and 1"),
        ({"method": "wanda"}, "method wanda does not go with pattern depth, expected activation, random"),
        ({"method": "activation", "pattern": "2:4"}, "method activation does not go with pattern 2:4"),
        ({"repair": "least_squares"}, "repair has no meaning with pattern depth"),
        ({"allocation": "owl"}, "expected uniform"),
        ({"contiguous": True, "pattern": "unstructured", "method": "wanda"}, "contiguous has no meaning"),
        ({"resume": True}, "one pass without checkpoints"),
        ({"skip": ["*"]}, "1 of 4 blocks cannot go: too many are skipped"),
        ({"skip": ["*.nothing"]}, 'no layer matches "\\*.nothing"'),
    ],
)
def test_bad_settings_are_named(
    make: Callable[..., PruneResult], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    model = four_blocks("llama_tied", tmp_path / "model")
    with pytest.raises(ConfigError, match=message):
        make(model, **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama_tied", {"num_hidden_layers": 1}, "has one block"),
        ("gemma3_text", {}, "set contiguous"),
        ("gpt_oss", {}, r'no "(full|sliding)_attention" layer would be left'),
    ],
)
def test_what_cannot_be_expressed_is_refused(
    make: Callable[..., PruneResult],
    tmp_path: Path,
    name: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(make_model(name, tmp_path / "model", **changes), sparsity=0.5)
    assert not (tmp_path / "out").exists()


def test_quantized_models_are_refused(make: Callable[..., PruneResult], tmp_path: Path) -> None:
    model = four_blocks("llama_tied", tmp_path / "model")
    eat.quantize.quantize(model, technique="rtn", group_size=32, output=str(tmp_path / "4bit"))
    with pytest.raises(ConfigError, match="is quantized: prune the original model"):
        make(tmp_path / "4bit")


def test_an_interrupted_run_leaves_no_model(make: Callable[..., PruneResult], tmp_path: Path) -> None:
    def stop(event: eat.callbacks.Event) -> None:
        if isinstance(event, eat.callbacks.Progress) and event.stage == "influence":
            raise KeyboardInterrupt

    model = four_blocks("llama_tied", tmp_path / "model")
    with pytest.raises(KeyboardInterrupt):
        make(model, callback=stop)
    assert not (tmp_path / "out/config.json").exists()
    make(model, overwrite=True)
    assert (tmp_path / "out/config.json").exists()


def test_the_command(tmp_path: Path, data: Path) -> None:
    model = four_blocks("llama_tied", tmp_path / "model")
    common = ["--model-path", str(model), "--calibration", str(data), "--sequence-length", "32"]
    common += ["--output", str(tmp_path / "out"), "--pattern", "depth"]
    checked = run([str(PROGRAM), "cpu-model-compression:validate", *common])
    assert checked.returncode == 0, checked.stderr
    command = [str(PROGRAM), "cpu-model-compression:prune", *common, "--progress", "silent"]
    pruned = run(command)
    assert pruned.returncode == 0, pruned.stderr
    assert "1 of 4 blocks" in pruned.stdout
    refused = run([*command, "--overwrite", "--method", "magnitude"])
    assert refused.returncode == 2
    assert "method magnitude does not go with pattern depth" in refused.stderr
