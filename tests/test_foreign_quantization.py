"""GPTQ and AWQ checkpoints, packed here as AutoGPTQ and AutoAWQ pack them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from efficientai_toolkit import _core
from efficientai_toolkit.adapters import fuse
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError
from support.engine import MODELS, computes_packed, largest, logits, train
from support.rows import random_ids, write_words

if TYPE_CHECKING:
    from support.figures import Check

MODEL = MODELS / "llama_tied"
WEIGHTS = "model.safetensors"
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The n-th code of a word is that of this output of the eight."""

Packer = Callable[[np.ndarray, np.ndarray, int], dict[str, np.ndarray]]
"""Packs codes and zeros of some bits."""


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """``[n, m]`` → ``[n·bits/32, m]``: the codes of a column follow each other from the lowest bit on."""
    stream = (codes[:, None, :] >> np.arange(bits)[None, :, None]) & 1
    stream = stream.reshape(-1, 32, codes.shape[1]).astype(np.uint64)
    packed = (stream << np.arange(32, dtype=np.uint64)[None, :, None]).sum(axis=1)
    result: np.ndarray = packed.astype(np.uint32).view(np.int32)
    return result


def awq_words(codes: np.ndarray) -> np.ndarray:
    """``[n, m]`` → ``[n, m/8]``."""
    grouped = codes.reshape(codes.shape[0], -1, 8)[:, :, AWQ_ORDER].astype(np.uint64)
    packed = (grouped << (4 * np.arange(8, dtype=np.uint64))).sum(axis=2)
    result: np.ndarray = packed.astype(np.uint32).view(np.int32)
    return result


def gptq(offset: int) -> Packer:
    """AutoGPTQ's words; ``offset`` is what readers have to add to zeros."""
    return lambda codes, zeros, bits: {
        "qweight": words(codes, bits),
        "qzeros": np.ascontiguousarray(words((zeros - offset).T, bits).T),
    }


def awq(codes: np.ndarray, zeros: np.ndarray, _bits: int) -> dict[str, np.ndarray]:
    """AutoAWQ's words."""
    return {"qweight": awq_words(codes), "qzeros": awq_words(zeros)}


def is_packed(inputs: int, group: int, ordered: bool) -> bool:
    """Whether MLX has groups that these are made of."""
    size = inputs if group == -1 else min(group, inputs)
    part = next((part for part in (128, 64, 32) if size % part == 0), None)
    return part is not None and inputs % part == 0 and not (ordered and inputs > group)


def rounded(scales: np.ndarray, codes: np.ndarray, zeros: np.ndarray, packed: bool) -> np.ndarray:
    """What codes stand for, with what is stored in float16 rounded to it: sums in MLX, else the weights."""
    factors = scales.astype(np.float32)
    if packed:
        weights = factors * codes + (-factors * zeros).astype(np.float16)
    else:
        weights = (factors * (codes - zeros)).astype(np.float16)
    return np.ascontiguousarray(weights.T.astype(np.float32))


class Checkpoint:
    """A model whose linear layers are rounded, packed and, beside it, dense."""

    def __init__(
        self,
        root: Path,
        quantization: dict[str, Any],
        pack: Packer,
        *,
        ordered: bool = False,
        overrides: Callable[[str], dict[str, Any] | None] = lambda _: {},
    ) -> None:
        """``overrides`` returns the settings of a layer that differ, or that it stays dense."""
        self.folder, self.dense = root / "packed", root / "dense"
        packed: dict[str, np.ndarray] = {}
        dense: dict[str, np.ndarray] = {}
        rng = np.random.default_rng(3)
        for name, value in load_file(MODEL / WEIGHTS).items():
            dense[name] = packed[name] = value
            differing = overrides(name)
            if differing is None:
                continue
            settings = quantization | differing
            bits, group = settings["bits"], settings["group_size"]
            # Words of 32 bits must hold whole rows of zeros.
            if not name.endswith("_proj.weight") or value.shape[0] * bits % 32:
                continue
            inputs = value.shape[1]
            size = inputs if group == -1 else group
            groups = np.arange(inputs) // size
            if ordered or settings.get("desc_act"):
                groups = rng.permutation(groups)
            count = groups.max() + 1
            rows = [value.T[groups == index] for index in range(count)]
            low = np.stack([row.min(axis=0) for row in rows])
            high = np.stack([row.max(axis=0) for row in rows])
            levels = 2**bits - 1
            # Scales that float16 holds, so that both forms are the same numbers.
            scales = ((high - low) / levels).astype(np.float16)
            zeros = np.clip(np.round(-low / scales), 1, levels).astype(np.int64)
            codes = np.clip(np.round(value.T / scales[groups]) + zeros[groups], 0, levels).astype(np.int64)
            kept = is_packed(inputs, group, ordered or settings.get("desc_act", False))
            dense[name] = rounded(scales[groups], codes, zeros[groups], kept)
            layer = name.removesuffix("weight")
            del packed[name]
            parts = pack(codes, zeros, bits) | {
                "scales": scales,
                "bias": np.zeros(value.shape[0], np.float16),
            }
            if quantization["quant_method"] == "gptq":
                parts["g_idx"] = groups.astype(np.int32)
            packed |= {layer + part: np.ascontiguousarray(array) for part, array in parts.items()}
        for folder, tensors in ((self.folder, packed), (self.dense, dense)):
            shutil.copytree(MODEL, folder)
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        self.configure(quantization)

    def configure(self, quantization: dict[str, Any]) -> None:
        """Write what ``config.json`` tells about the packing."""
        path = self.folder / "config.json"
        config = json.loads(path.read_text()) | {"quantization_config": quantization}
        path.write_text(json.dumps(config))

    def tensors(self) -> dict[str, np.ndarray]:
        """What is stored."""
        return load_file(self.folder / WEIGHTS)


@pytest.fixture
def ids() -> np.ndarray:
    return np.array(random_ids(3, [17], seed=5), dtype=np.int32)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


@pytest.mark.parametrize(
    ("change", "ordered"),
    [
        ({}, False),
        ({"checkpoint_format": "gptq_v2"}, False),
        ({"bits": 2}, False),
        ({"bits": 3}, False),
        ({"bits": 8}, False),
        ({"group_size": 64}, False),
        ({"group_size": -1}, False),
        ({"group_size": 16}, False),
        ({"desc_act": True}, True),
    ],
    ids=["v1", "v2", "2 bits", "3 bits", "8 bits", "groups of 64", "one group", "groups of 16", "ordered"],
)
def test_gptq_is_read_as_the_numbers_it_stands_for(
    change: dict[str, Any], ordered: bool, ids: np.ndarray, tmp_path: Path, figure: Check
) -> None:
    quantization: dict[str, Any] = GPTQ | change
    offset = 0 if quantization.get("checkpoint_format") == "gptq_v2" else 1
    checkpoint = Checkpoint(tmp_path, quantization, gptq(offset), ordered=ordered)
    name = f"GPTQ {', '.join(f'{key} {value}' for key, value in change.items())} logits"
    figure(name, largest(logits(checkpoint.folder, ids), logits(checkpoint.dense, ids)), 1e-4)


def test_layers_of_gptq_may_differ(ids: np.ndarray, tmp_path: Path, figure: Check) -> None:
    """GPTQModel's ``dynamic``: other bits, groups and orders by pattern, and layers left dense."""
    dynamic: dict[str, dict[str, Any]] = {
        r"-:.*layers\.0\.self_attn\.q_proj": {},
        r"+:.*\.up_proj": {"bits": 8, "group_size": 64},
        r".*\.(gate|down)_proj": {"bits": 2, "group_size": 16},
        r".*layers\.1\.self_attn\.(?!o_proj)": {"bits": 3, "group_size": -1},
        r".*\.o_proj": {"desc_act": True},
    }

    def overrides(name: str) -> dict[str, Any] | None:
        for pattern, settings in dynamic.items():
            if re.match(pattern[2:] if pattern[1] == ":" else pattern, name):
                return None if pattern.startswith("-:") else settings
        return {}

    checkpoint = Checkpoint(tmp_path, GPTQ | {"dynamic": dynamic}, gptq(1), overrides=overrides)
    layers = {name.removesuffix(".qweight") for name in checkpoint.tensors() if name.endswith(".qweight")}
    assert "model.layers.0.self_attn.q_proj" not in layers
    want = logits(checkpoint.dense, ids)
    figure("GPTQ with layers that differ, logits", largest(logits(checkpoint.folder, ids), want), 1e-4)
    assert largest(want, logits(MODEL, ids)) > 0.1
    # Contiguous groups need no order.
    kept = {
        name: value
        for name, value in checkpoint.tensors().items()
        if not name.endswith("g_idx") or ".o_proj." in name
    }
    save_file(kept, checkpoint.folder / WEIGHTS, metadata={"format": "pt"})
    figure("the same without g_idx", largest(logits(checkpoint.folder, ids), want), 1e-4)


def test_the_order_may_lie_in_another_shard(ids: np.ndarray, tmp_path: Path, figure: Check) -> None:
    checkpoint = Checkpoint(
        tmp_path, GPTQ, gptq(1), overrides=lambda name: {"desc_act": True} if ".o_proj." in name else {}
    )
    stored = checkpoint.tensors()
    for number in (1, 2):
        part = {name: value for name, value in stored.items() if name.endswith("g_idx") == (number == 2)}
        path = checkpoint.folder / f"model-{number:05}-of-00002.safetensors"
        save_file(part, path, metadata={"format": "pt"})
    (checkpoint.folder / WEIGHTS).unlink()
    want = logits(checkpoint.dense, ids)
    figure("GPTQ with orders in another shard", largest(logits(checkpoint.folder, ids), want), 1e-4)


def test_awq_is_read_as_by_mlx_lm(ids: np.ndarray, tmp_path: Path, figure: Check) -> None:
    checkpoint = Checkpoint(tmp_path, AWQ, awq)
    ours = logits(checkpoint.folder, ids)
    figure("AWQ logits", largest(ours, logits(checkpoint.dense, ids)), 1e-4)
    from mlx_lm.utils import _transform_awq_weights

    stored = {name: mx.array(value) for name, value in checkpoint.tensors().items()}
    theirs, _ = _transform_awq_weights(stored, AWQ)
    dense = load_file(checkpoint.dense / WEIGHTS)
    name = "model.layers.1.mlp.down_proj"
    parts = [theirs[f"{name}.{part}"] for part in ("weight", "scales", "biases")]
    weight = mx.dequantize(*parts, group_size=32, bits=4).astype(mx.float32)
    figure("AWQ weights of mlx-lm", largest(np.array(weight), dense[f"{name}.weight"]), 1e-3)


@pytest.mark.parametrize("quantization", [GPTQ, AWQ], ids=["gptq", "awq"])
def test_adapters_train_on_the_codes(
    quantization: dict[str, Any], ids: np.ndarray, tmp_path: Path, figure: Check
) -> None:
    pack = awq if quantization is AWQ else gptq(1)
    checkpoint = Checkpoint(tmp_path, quantization, pack)
    data = write_words(tmp_path / "data", random_ids(4, [12], seed=6))
    packed, dense = (
        train(folder, data, tmp_path / f"{folder.name}-run", iters=5, lr=1e-2)
        for folder in (checkpoint.folder, checkpoint.dense)
    )
    first, *_, last = packed.losses.values()
    assert first - last > 0.1
    kind = quantization["quant_method"]
    figure(
        f"losses on {kind} codes", largest(list(packed.losses.values()), list(dense.losses.values())), 1e-4
    )
    gap = largest(packed.adapter["model.layers.0.mlp.down_proj.lora_b"], np.zeros(1))
    assert gap > 1e-3, "the adapters of packed layers must move"
    with pytest.raises(ConfigError, match=f'quantized as "{kind}".* set dequantize'):
        fuse(checkpoint.folder, packed.output, tmp_path / "merged")
    fused = fuse(checkpoint.folder, packed.output, tmp_path / "merged", dequantize=True)
    assert not fused.quantized
    want = logits(checkpoint.folder, ids, packed.output)
    figure(f"merged {kind} logits", largest(logits(tmp_path / "merged", ids), want), 1e-4)
    assert largest(want, logits(checkpoint.folder, ids)) > 0.1


def test_codes_stay_packed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, AWQ, awq)
    model, _ = _core.models.load(str(checkpoint.folder))
    dense, _ = _core.models.load(str(checkpoint.dense))
    assert model.num_parameters == dense.num_parameters
    assert computes_packed(checkpoint.folder)
    assert not computes_packed(checkpoint.dense)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, layer: tensors.pop(f"{layer}.qzeros"), "lacks the other parts"),
        (lambda tensors, layer: tensors.update({f"{layer}.scales": tensors[f"{layer}.scales"][:1]}), "shape"),
        (lambda tensors, layer: tensors[f"{layer}.g_idx"].fill(99), "g_idx"),
        (lambda tensors, layer: tensors[f"{layer}.bias"].fill(1), "bias"),
        (
            lambda tensors, layer: tensors.update(
                {f"{layer}.qweight": tensors[f"{layer}.qweight"].astype(np.float32)}
            ),
            "expected Int32",
        ),
    ],
    ids=["missing", "shape", "groups", "bias", "dtype"],
)
def test_damaged_matrices_are_named(
    change: Callable[[dict[str, np.ndarray], str], Any], message: str, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path, GPTQ, gptq(1))
    tensors = {name: value.copy() for name, value in checkpoint.tensors().items()}
    layer = "model.layers.0.mlp.down_proj"
    change(tensors, layer)
    save_file(tensors, checkpoint.folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelLoadingError, match=message) as raised:
        _core.models.load(str(checkpoint.folder))
    assert layer in str(raised.value)


def test_unknown_variants_are_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, AWQ, awq)
    checkpoint.configure(AWQ | {"version": "gemv"})
    with pytest.raises(ModelLoadingError, match='"version" is "gemv"'):
        _core.models.load(str(checkpoint.folder))
