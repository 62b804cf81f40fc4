"""Pruning of heads, of the residual stream, and of width and depth: what stays, is read, and is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

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
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": HEADS,
    "gemma3_text": HEADS,
    "gpt_oss": HEADS,
    "llama_bias": HEADS,
    "llama_tied": {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8},
    "mistral_window": HEADS,
    "qwen3": HEADS,
    "qwen3_moe": HEADS,
    "smollm3": HEADS,
}
"""Changes of the fixtures, which become models with heads of a size of their own."""

FOUR: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
}
"""Changes that make four blocks, of a size that four heads divide, and three."""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., PruneResult]:
    """Make a model narrower, by a little calibration text."""
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


def changed(model: Path, folder: Path, change: Callable[[str, mx.array], mx.array]) -> Path:
    """A copy of ``model`` with changed parameters."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = mx.load(str(model / "model.safetensors"))
    weights = {name: change(name, value) for name, value in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize("method", ["activation", "wanda", "taylor", "magnitude", "random"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_other_heads_compute_what_they_did(
    make: Callable[..., PruneResult], tmp_path: Path, name: str, method: str
) -> None:
    if method != "activation" and name != "llama_bias":
        pytest.skip("one family for every method")
    model = make_model(name, tmp_path / "model", **FAMILIES[name])
    result = make(model, width=["heads"], method=method, sparsity=0.5)
    groups = FAMILIES[name]["num_key_value_heads"]

    def silenced(key: str, value: mx.array) -> mx.array:
        if not key.endswith("self_attn.o_proj.weight"):
            return value
        kept = np.ones((groups, value.shape[1] // groups), np.float32)
        kept[result.blocks[int(key.split(".")[2])].removed_groups] = 0
        return value * mx.array(kept.reshape(-1))

    assert {len(block.removed_groups) for block in result.blocks} == {groups // 2}
    ours = logits(result.output, IDS)
    assert largest(ours, logits(changed(model, tmp_path / "silenced", silenced), IDS)) <= 1e-4
    assert largest(ours, logits(model, IDS)) > 1e-3
    config = json.loads((result.output / "config.json").read_text())
    assert config["num_key_value_heads"] == groups - len(result.blocks[0].removed_groups)
    stored = tensors(result.output / "model.safetensors")
    assert result.parameters == sum(tensor.size for tensor in stored.values()) < result.parameters_before


DEAD = np.arange(3, 64, 4)


def deadened(key: str, value: mx.array) -> mx.array:
    """The parameters of a model whose residual stream has channels that nothing writes to."""
    written = ("embed_tokens.weight", "o_proj.weight", "down_proj.weight")
    if not key.endswith(written) and not key.endswith(("o_proj.bias", "down_proj.bias", "lm_head.weight")):
        return value
    kept = np.ones(64, np.float32)
    kept[DEAD] = 0
    # Large next to the epsilon of norms.
    along = mx.array(kept) * (8 if key.endswith("embed_tokens.weight") else 1)
    if key.endswith(("embed_tokens.weight", "lm_head.weight")) or value.ndim == 1:
        return value * along
    return value * along[:, None]


@pytest.mark.parametrize("method", ["activation", "wanda", "taylor"])
@pytest.mark.parametrize("name", ["llama_bias", "llama_tied", "mistral_window", "qwen3", "smollm3"])
def test_channels_that_carry_nothing_go_without_a_trace(
    make: Callable[..., PruneResult], tmp_path: Path, name: str, method: str
) -> None:
    model = changed(make_model(name, tmp_path / "model", **FAMILIES[name]), tmp_path / "dead", deadened)
    result = make(model, width=["hidden"], method=method, sparsity=0.25)
    assert result.removed_hidden == list(DEAD)
    # Norms divide by another mean, for which their weights make up.
    assert largest(logits(result.output, IDS), logits(model, IDS)) <= 1e-4
    config = json.loads((result.output / "config.json").read_text())
    assert (config["hidden_size"], config["head_dim"]) == (48, FAMILIES[name]["head_dim"])


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "gpt_oss", "qwen3_moe"])
def test_every_layer_of_other_families_gets_narrower(
    make: Callable[..., PruneResult], tmp_path: Path, name: str
) -> None:
    model = make_model(name, tmp_path / "model", **FAMILIES[name])
    parts = ["heads", "hidden"] if "moe" in name or name == "gpt_oss" else ["heads", "mlp", "hidden"]
    result = make(model, width=parts, sparsity=0.25)
    assert np.isfinite(logits(result.output, IDS)).all()
    assert len(result.removed_hidden) == 16
    assert result.sparsity == pytest.approx(1 - result.parameters / result.parameters_before)
    if name.startswith("gemma"):
        # The scale of embeddings depends on the size, and their values make up for it.
        before = tensors(model / "model.safetensors")["model.embed_tokens.weight"]
        after = tensors(result.output / "model.safetensors")["model.embed_tokens.weight"]
        kept = np.delete(before, result.removed_hidden, axis=1)
        assert np.allclose(after * np.sqrt(48), kept * np.sqrt(64), atol=1e-5)


@pytest.mark.parametrize("parts", [["heads"], ["hidden"], ["mlp", "heads", "hidden"]])
@pytest.mark.parametrize("name", ["llama_gqa", "qwen3", "smollm3"])
def test_mlx_lm_reads_the_result(
    make: Callable[..., PruneResult], tmp_path: Path, mlx_lm: ModuleType, name: str, parts: list[str]
) -> None:
    # Where mlx-lm looks for the base of SmolLM3's rotation.
    changes: dict[str, Any] = HEADS | ({"rope_parameters": None} if name == "smollm3" else {})
    result = make(make_model(name, tmp_path / "model", **changes), width=parts, sparsity=0.3)
    model, _ = mlx_lm.load(str(result.output))
    theirs = np.asarray(model(mx.array(IDS)).astype(mx.float32))
    assert largest(logits(result.output, IDS), theirs) <= 1e-4


def test_heads_and_hidden_size_of_qwen2_can_only_go_together(
    make: Callable[..., PruneResult], tmp_path: Path, mlx_lm: ModuleType
) -> None:
    model = make_model("qwen2", tmp_path / "model", num_attention_heads=4, num_key_value_heads=4)
    with pytest.raises(ConfigError, match="2 heads of 16 would be left for a hidden size of 64, but mlx-lm"):
        make(model, width=["heads"], sparsity=0.5)
    result = make(model, width=["heads", "hidden"], sparsity=0.5)
    loaded, _ = mlx_lm.load(str(result.output))
    theirs = np.asarray(loaded(mx.array(IDS)).astype(mx.float32))
    assert largest(logits(result.output, IDS), theirs) <= 1e-4


def test_depth_goes_first_and_width_of_what_stays(make: Callable[..., PruneResult], tmp_path: Path) -> None:
    model = make_model("llama_tied", tmp_path / "model", **FOUR)
    result = make(model, pattern="width+depth", width=["mlp", "heads"], sparsity=0.44)
    removed = [block for block in result.blocks if block.removed]
    stay = [block for block in result.blocks if not block.removed]
    assert (len(removed), len(stay)) == (1, 3)
    assert all(not block.removed_channels and block.influence is not None for block in removed)
    # A quarter of each, since both together make 0.44.
    assert {(len(block.removed_channels), len(block.removed_groups)) for block in stay} == {(32, 1)}
    depth = make(model, pattern="depth", sparsity=0.25, output=str(tmp_path / "depth"))
    assert [block.removed for block in depth.blocks] == [block.removed for block in result.blocks]
    both = make(depth.output, width=["mlp", "heads"], sparsity=0.25, output=str(tmp_path / "both"))
    assert largest(logits(result.output, IDS), logits(both.output, IDS)) <= 1e-5


def test_least_squares_repairs_heads(make: Callable[..., PruneResult], tmp_path: Path) -> None:
    model = make_model("llama_tied", tmp_path / "model", **FOUR)

    def error(repair: str) -> float:
        result = make(model, width=["heads"], repair=repair, sparsity=0.25, overwrite=True)
        return sum(block.attention_error or 0 for block in result.blocks)

    assert error("least_squares") < 0.9 * error("none")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("llama_tied", {"width": ["heads"], "pattern": "depth"}, "width has no meaning with pattern depth"),
        ("llama_tied", {"width": []}, "width: expected some of mlp, heads and hidden"),
        ("llama_tied", {"width": ["mlp", "mlp"]}, "each at most once"),
        ("llama_tied", {"width": ["depth"]}, "width"),
        ("llama_tied", {"width": ["hidden"], "repair": "scale"}, "no meaning with width hidden alone"),
        ("llama_tied", {"width": ["heads"]}, "transformers wants that of a llama model to be a multiple"),
        ("phi3", {"width": ["heads"]}, "but mlx-lm takes those of a phi3 model"),
        ("mixtral", {"width": ["hidden"]}, "there is no smaller one; choose heads too"),
        ("lfm2", {"width": ["heads", "hidden"]}, "entries along the hidden size of 64"),
        ("qwen3_moe", {"width": ["heads", "mlp"]}, "has experts, whose channels cannot be removed"),
        (
            "llama_tied",
            {"pattern": "width+depth", "method": "magnitude"},
            "expected activation, wanda, taylor",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    make: Callable[..., PruneResult], tmp_path: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    sizes: dict[str, Any] = (
        {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8} if name == "llama_tied" else {}
    )
    model = make_model(name, tmp_path / "model", **sizes)
    with pytest.raises(ConfigError, match=message):
        make(model, **settings)
    assert not (tmp_path / "out").exists()


def test_one_group_of_heads_must_stay(make: Callable[..., PruneResult], tmp_path: Path) -> None:
    changes: dict[str, Any] = HEADS | {"num_key_value_heads": 1}
    model = make_model("llama_tied", tmp_path / "model", **changes)
    with pytest.raises(ConfigError, match="one group of attention heads"):
        make(model, width=["heads"])


def test_the_command_prints_every_kind(tmp_path: Path) -> None:
    model = make_model("llama_tied", tmp_path / "model", **FOUR)
    data = write_words(tmp_path / "data", random_ids(24, [40], seed=1))
    command = [str(PROGRAM), "cpu-model-compression:prune", "--model-path", str(model)]
    command += ["--pattern", "width+depth", "--width", "mlp,heads,hidden", "--method", "taylor"]
    command += ["--calibration", str(data), "--sequence-length", "32", "--sparsity", "0.44"]
    pruned = run([*command, "--output", str(tmp_path / "out"), "--progress", "silent"])
    assert pruned.returncode == 0, pruned.stderr
    for line in (
        "1 of 4 blocks",
        "1 groups of heads of each of 3 blocks",
        "32 channels of each of 3 blocks",
        "24 channels between the blocks",
    ):
        assert line in pruned.stdout
