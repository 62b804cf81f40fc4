"""Pruning of channels: which ones go, that the others compute what they did, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.prune import PruneResult, prune
from support.command import PROGRAM, run
from support.engine import largest, logits, tensors
from support.rows import random_ids, write_words
from test_quantization import make_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

IDS = np.array(random_ids(2, [24], seed=4))
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": {},
    "gemma3_text": {},
    "lfm2": {"block_auto_adjust_ff_dim": True, "block_multiple_of": 32},
    "llama_bias": {},
    "llama_tied": {},
    "mistral_window": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {},
    "smollm3": {},
}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., PruneResult]:
    """Remove channels, by a little calibration text."""
    data = write_words(tmp_path / "data", random_ids(24, [40], seed=1))

    def prune_model(model: Path, **settings: Any) -> PruneResult:
        chosen: dict[str, Any] = {
            "pattern": "width",
            "calibration": str(data),
            "calibration_sequences": 4,
            "sequence_length": 32,
            "output": str(tmp_path / "out"),
        }
        return prune(model, **chosen | settings)

    return prune_model


def without(model: Path, result: PruneResult, folder: Path) -> Path:
    """A copy of ``model`` in which nothing reads the channels that ``result`` lacks."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = mx.load(str(model / "model.safetensors"))
    for name, value in weights.items():
        if name.endswith((".down_proj.weight", ".w2.weight")):
            block = int(name.split(".")[2])
            kept = np.ones(value.shape[1], np.float32)
            kept[result.blocks[block].removed_channels] = 0
            weights[name] = value * mx.array(kept)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_the_other_channels_compute_what_they_did(
    make: Callable[..., PruneResult], tmp_path: Path, name: str
) -> None:
    model = make_model(name, tmp_path / "model", **FAMILIES[name])
    result = make(model, sparsity=0.25)
    channels = {len(block.removed_channels) for block in result.blocks}
    assert len(channels) == 1
    ours = logits(result.output, IDS)
    assert largest(ours, logits(without(model, result, tmp_path / "without"), IDS)) <= 1e-4
    assert largest(ours, logits(model, IDS)) > 1e-3
    stored = tensors(result.output / "model.safetensors")
    assert result.parameters == result.nonzero == sum(tensor.size for tensor in stored.values())
    assert result.parameters < result.parameters_before


@pytest.mark.parametrize("method", ["magnitude", "activation", "wanda", "random"])
def test_scores_are_those_of_the_method(
    make: Callable[..., PruneResult], tmp_path: Path, mlx_lm: ModuleType, method: str
) -> None:
    model = make_model("llama_gqa", tmp_path / "model")
    row = random_ids(1, [31], seed=2)[0]
    data = write_words(tmp_path / "row", [row] * 8)
    result = make(model, method=method, sparsity=0.25, calibration=str(data))
    removed = result.blocks[0].removed_channels
    assert len(removed) == 32
    loaded, _ = mlx_lm.load(str(model))
    block = loaded.model.layers[0]
    h = loaded.model.embed_tokens(mx.array([[*row, 1]]))
    h += block.self_attn(block.input_layernorm(h), "causal", None)
    h = block.post_attention_layernorm(h)
    gate, up, down = (
        np.asarray(part.weight, np.float64)
        for part in (block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj)
    )
    z = np.asarray(h, np.float64)[0]
    x = (z @ gate.T) / (1 + np.exp(-(z @ gate.T))) * (z @ up.T)
    scores = {
        "magnitude": (gate**2).sum(1) + (up**2).sum(1) + (down**2).sum(0),
        "activation": np.abs(x).mean(0),
        "wanda": np.sqrt((x**2).mean(0)) * np.linalg.norm(down, axis=0),
    }
    if method in scores:
        assert removed == sorted(np.argsort(scores[method])[:32])
    else:
        assert (
            removed
            != make(model, method=method, sparsity=0.25, seed=1, overwrite=True).blocks[0].removed_channels
        )


@pytest.mark.parametrize("name", ["llama_gqa", "qwen2", "qwen3", "phi3", "smollm3"])
def test_mlx_lm_reads_the_result(
    make: Callable[..., PruneResult], tmp_path: Path, mlx_lm: ModuleType, name: str
) -> None:
    # Where mlx-lm looks for the base of SmolLM3's rotation.
    changes: dict[str, Any] = {"rope_parameters": None} if name == "smollm3" else {}
    result = make(make_model(name, tmp_path / "model", **changes), sparsity=0.3)
    model, _ = mlx_lm.load(str(result.output))
    theirs = np.asarray(model(mx.array(IDS)).astype(mx.float32))
    assert largest(logits(result.output, IDS), theirs) <= 1e-4


def test_what_calibration_and_repair_win(tmp_path: Path) -> None:
    from efficientai_toolkit._engine.core import core

    data = Path(eat.__file__).parent / "assets/instructions/train.jsonl"
    reference, tokenizer = eat.load()
    lines = data.read_text().splitlines()
    rows = [tokenizer.encode("\n".join(json.loads(line).values())) for line in lines[:30]]
    rows = [ids for ids in rows if len(ids) > 8]
    calibration = tmp_path / "text.jsonl"
    calibration.write_text("\n".join(lines[100:]) + "\n")

    def divergence(**settings: Any) -> float:
        result = prune(
            pattern="width",
            output=str(tmp_path / "out"),
            overwrite=True,
            calibration=str(calibration),
            calibration_sequences=16,
            sequence_length=128,
            **settings,
        )
        model, _ = eat.load(result.output)
        return float(json.loads(core.evaluate.divergence(model, reference, rows))["mean_kl"])

    random, wanda = divergence(method="random"), divergence(method="wanda")
    repaired = divergence(method="wanda", repair="least_squares")
    assert wanda < random, (wanda, random)
    assert repaired < wanda, (repaired, wanda)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("llama_tied", {"sparsity": 1.0}, "sparsity is 1, expected a value between 0 and 1"),
        ("llama_tied", {"method": "sparsegpt"}, "method sparsegpt does not go with pattern width"),
        ("llama_tied", {"skip": ["*.0.*"]}, "skip has no meaning with pattern width"),
        ("llama_tied", {"contiguous": True}, "contiguous has no meaning with pattern width"),
        ("llama_tied", {"resume": True}, "one pass without checkpoints"),
        ("mixtral", {}, "has experts, whose channels cannot be removed"),
        ("qwen3_moe", {}, "has experts, whose channels cannot be removed"),
        ("lfm2_moe", {}, "has experts, whose channels cannot be removed"),
        ("gpt_oss", {}, "has experts, whose channels cannot be removed"),
    ],
)
def test_what_cannot_be_done_is_refused(
    make: Callable[..., PruneResult], tmp_path: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(make_model(name, tmp_path / "model"), **settings)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_number(tmp_path: Path) -> None:
    model = make_model("llama_tied", tmp_path / "model")
    command = [str(PROGRAM), "cpu-model-compression:prune", "--model-path", str(model), "--pattern", "width"]
    pruned = run(
        [*command, "--method", "magnitude", "--output", str(tmp_path / "out"), "--progress", "silent"]
    )
    assert pruned.returncode == 0, pruned.stderr
    assert "26 channels of each of 3 blocks" in pruned.stdout
