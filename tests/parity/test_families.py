"""Training every family: losses as in torch, and adapters on every layer that can have one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit import _core
from support.engine import (
    FIXTURES,
    MODELS,
    largest,
    logits,
    recovered_gradients,
    tensors,
    train,
    write_adapter,
)
from support.rows import write_words

if TYPE_CHECKING:
    from support.figures import Check

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
NUMBERED = ["w1", "w2", "w3"]
LFM2 = ["q_proj", "k_proj", "v_proj", "out_proj", "in_proj", *NUMBERED]

TARGETS = {
    "gemma2": [*ATTENTION, *MLP],
    "gemma3_text": [*ATTENTION, *MLP],
    "gpt_oss": [*ATTENTION, *MLP, "router"],
    "lfm2": LFM2,
    "lfm2_moe": [*LFM2, "gate"],
    "mixtral": [*ATTENTION, *NUMBERED, "gate"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "qwen2": [*ATTENTION, *MLP],
    "qwen3": [*ATTENTION, *MLP],
    "qwen3_moe": [*ATTENTION, *MLP, "gate"],
    "smollm3": [*ATTENTION, *MLP],
}
"""Names that an adapter may be put on, and all of them: the case is called like its family."""

STORED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
"""What mlx-lm, and so an adapter's file, calls the layers of experts."""

CASES = sorted(path.stem for path in (FIXTURES / "expected").iterdir() if "losses" in tensors(path))

LOSSES = 1e-3


@pytest.fixture
def rows(case: str, tmp_path: Path) -> Path:
    stored = tensors(FIXTURES / "expected" / f"{case}.safetensors")["rows"]
    return write_words(tmp_path / "data", stored[:, :-1].tolist())


def test_every_family_has_a_case() -> None:
    families = {json.loads((MODELS / case / "config.json").read_text())["model_type"] for case in CASES}
    assert families == TARGETS.keys()


@pytest.mark.parametrize("case", CASES)
def test_full_loss_curve(case: str, rows: Path, tmp_path: Path, figure: Check) -> None:
    want = tensors(FIXTURES / "expected" / f"{case}.safetensors")["losses"]
    run = train(MODELS / case, rows, tmp_path / "run", method="full", iters=len(want))
    assert want[0] - want[-1] > 0.05, "the fixture must learn something"
    figure(f"{case} full loss, {len(want)} steps", largest(list(run.losses.values()), want), LOSSES)
    # What was saved is read as what was trained.
    ids = np.arange(3, 15)[None]
    assert largest(logits(run.output, ids), logits(MODELS / case, ids)) > 1e-3
    assert stored_names(run.output) == stored_names(MODELS / case)


def stored_names(model: Path) -> set[str]:
    return {name for path in model.glob("*.safetensors") for name in mx.load(str(path))}


@pytest.mark.parametrize("case", TARGETS)
def test_an_adapter_trains_every_target(case: str, rows: Path, tmp_path: Path) -> None:
    """B moves in the first step; from a B that is not zero, all gradients of A and B are not."""
    first = train(MODELS / case, rows, tmp_path / "first", iters=1, target_modules=TARGETS[case])
    adapter = first.adapter
    found = {re.sub(r".*\.", "", name.rpartition(".")[0]) for name in adapter}
    stacked = case in {"mixtral", "lfm2_moe"}
    assert found == {STORED.get(name, name) if stacked else name for name in TARGETS[case]}
    assert first.report["trainable_parameters"] == sum(value.size for value in adapter.values())
    everywhere = train(MODELS / case, rows, tmp_path / "everywhere", iters=1)
    assert everywhere.adapter.keys() == adapter.keys(), "no layer is without a name"
    for name, value in adapter.items():
        if name.endswith(".lora_b"):
            assert np.abs(value).max() > 0, name
    generator = np.random.default_rng(0)
    for name, value in adapter.items():
        if name.endswith(".lora_b"):
            adapter[name] = generator.normal(0, 0.05, value.shape).astype(np.float32)
    initial = write_adapter(tmp_path / "initial", adapter, tmp_path / "first" / "adapter_config.json")
    _, gradients = recovered_gradients(MODELS / case, rows, tmp_path / "run", initial)
    assert gradients.keys() == adapter.keys()
    still = [name for name, gradient in gradients.items() if not np.abs(gradient).max() > 1e-7]
    assert still == []


def rounded(name: str, weight: mx.array) -> mx.array:
    """``weight`` through 8 bits in groups of 32, if it is one of a layer that may be packed."""
    if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return rounded("stack", weight.swapaxes(-1, -2)).swapaxes(-1, -2)
    dense = name.endswith((".gate.weight", ".router.weight", ".conv.conv.weight", "_bias"))
    if weight.ndim < 2 or weight.shape[-1] % 32 or dense:
        return weight
    return mx.dequantize(*mx.quantize(weight, 32, 8), 32, 8)


@pytest.mark.parametrize("case", TARGETS)
def test_a_quantized_model_computes_with_rounded_weights(case: str, tmp_path: Path, figure: Check) -> None:
    ids = np.arange(3, 15, dtype=np.int32)[None]
    packed, _ = _core.models.load(str(MODELS / case), None, "float32", 8, 32)
    folder = shutil.copytree(MODELS / case, tmp_path / "model")
    weights = mx.load(str(MODELS / case / "model.safetensors"))
    wide = {name: rounded(name, weight.astype(mx.float32)) for name, weight in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), wide)
    want = logits(folder, ids)
    assert largest(want, logits(MODELS / case, ids)) > 1e-3
    figure(f"{case} of 8 bits", largest(np.asarray(packed(ids)), want), 1e-4)


def unpacked(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """MXFP4 as transformers reads it: ``blocks`` [..., groups, 16], ``scales`` [..., groups]."""
    half = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
    numbers = np.concatenate([half, -half])
    pairs = np.stack([numbers[blocks & 15], numbers[blocks >> 4]], axis=-1)
    groups = pairs.reshape(*blocks.shape[:-1], 32)
    factors = np.exp2(scales.astype(np.float32) - 127)
    return np.reshape(groups * factors[..., None], (*scales.shape[:-1], -1))


def test_gpt_oss_in_mxfp4(tmp_path: Path, figure: Check) -> None:
    """As it is published: packed experts beside dense other layers."""
    config = json.loads((MODELS / "gpt_oss" / "config.json").read_text()) | {"intermediate_size": 64}
    _core.models.create(json.dumps(config | {"initializer_range": 0.3}), str(tmp_path / "base"), 1)
    shutil.copy(MODELS / "gpt_oss" / "tokenizer.json", tmp_path / "base")
    dense, packed = (shutil.copytree(tmp_path / "base", tmp_path / name) for name in ("dense", "packed"))
    generator = np.random.default_rng(2)
    wide, narrow = {}, {}
    for name, weight in mx.load(str(tmp_path / "base" / "model.safetensors")).items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            wide[name] = narrow[name] = weight
            continue
        experts, inputs, outputs = weight.shape
        blocks = generator.integers(0, 256, (experts, outputs, inputs // 32, 16), dtype=np.uint8)
        scales = generator.integers(122, 126, blocks.shape[:-1], dtype=np.uint8)
        wide[name] = mx.array(unpacked(blocks, scales).swapaxes(-1, -2).copy())
        narrow |= {f"{name}_blocks": mx.array(blocks), f"{name}_scales": mx.array(scales)}
    mx.save_safetensors(str(dense / "model.safetensors"), wide)
    mx.save_safetensors(str(packed / "model.safetensors"), narrow)
    (packed / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}})
    )
    ids = np.arange(3, 15)[None]
    want = logits(dense, ids)
    assert want.std() > 0.1
    figure("gpt_oss in mxfp4", largest(logits(packed, ids), want), 1e-4)


def test_stacks_of_packed_experts(tmp_path: Path, figure: Check) -> None:
    """As MLX quantizes Mixtral: one tensor for all experts of a layer; rows of 48 stay dense."""
    source, dense, packed = MODELS / "mixtral", tmp_path / "dense", tmp_path / "packed"
    wide, narrow = {}, {}
    stacks: dict[tuple[str, str], list[mx.array]] = {}
    for name, weight in sorted(mx.load(str(source / "model.safetensors")).items()):
        layer, found, rest = name.partition(".experts.")
        if found:
            stacks.setdefault((layer, rest.split(".")[1]), []).append(weight.astype(mx.float32))
        else:
            wide[name] = narrow[name] = weight.astype(mx.float32)
    for (layer, theirs), experts in stacks.items():
        stack, ours = mx.stack(experts), {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}[theirs]
        parts = {"weight": stack}
        if stack.shape[-1] % 32 == 0:
            parts = dict(zip(("weight", "scales", "biases"), mx.quantize(stack, 32, 4), strict=True))
            stack = mx.dequantize(*parts.values(), 32, 4)
        narrow |= {f"{layer}.switch_mlp.{ours}.{part}": value for part, value in parts.items()}
        wide |= {f"{layer}.experts.{i}.{theirs}.weight": expert for i, expert in enumerate(stack)}
    config = json.loads((source / "config.json").read_text())
    for folder, weights, more in [
        (dense, wide, {}),
        (packed, narrow, {"quantization": {"bits": 4, "group_size": 32}}),
    ]:
        shutil.copytree(source, folder)
        mx.save_safetensors(str(folder / "model.safetensors"), weights)
        (folder / "config.json").write_text(json.dumps(config | more))
    ids = np.arange(3, 15)[None]
    want = logits(dense, ids)
    assert largest(want, logits(source, ids)) > 1e-2
    figure("mixtral with stacks of 4 bits", largest(logits(packed, ids), want), 1e-4)
