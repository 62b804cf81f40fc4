"""Adapters of the output head, and whole modules beside adapters, in both formats.

What they are to compute is computed by a plain model of which the sums are stored; that PEFT computes it
too is shown in ``parity/test_peft_heads.py``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import efficientai_toolkit as eat
from efficientai_toolkit import _core
from efficientai_toolkit.adapters import convert_adapter, fuse
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError
from support.engine import MODELS, continuation, cross_entropy, largest, logits, stored, tensors, train
from support.rows import random_ids, write_words

if TYPE_CHECKING:
    from support.figures import Check

APART, TIED = MODELS / "llama_gqa", MODELS / "llama_tied"
BOTH = pytest.mark.parametrize("model", [APART, TIED], ids=["apart", "tied"])
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
QUERY = "model.layers.0.self_attn.q_proj"
IDS = np.arange(3, 19)[None]
RANK, ALPHA = 4, 6.0
CLOSE = 1e-4


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.float32(0.3)


def head_of(model: Path) -> np.ndarray:
    parameters = tensors(model / "model.safetensors")
    return parameters[HEAD if HEAD in parameters else EMBEDDING]


def save(folder: Path, arrays: dict[str, np.ndarray], **settings: Any) -> Path:
    """An adapter as PEFT writes it."""
    folder.mkdir()
    named = {PREFIX + name: mx.array(value) for name, value in arrays.items()}
    mx.save_safetensors(str(folder / WEIGHTS), named)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def low_rank(model: Path, *paths: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random matrices for these layers, and what they add to the weights."""
    arrays: dict[str, np.ndarray] = {}
    sums: dict[str, np.ndarray] = {}
    for seed, path in enumerate(paths):
        weight = (
            head_of(model) if path == "lm_head" else tensors(model / "model.safetensors")[f"{path}.weight"]
        )
        a, b = noise(seed, RANK, weight.shape[1]), noise(seed + 9, weight.shape[0], RANK)
        arrays |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
        sums[f"{path}.weight"] = weight + (ALPHA / RANK) * (b @ a)
    return arrays, sums


def adapted_head(model: Path, folder: Path) -> Path:
    """PEFT keeps a copy of the head's own weight beside its adapter."""
    arrays, _ = low_rank(model, "lm_head", QUERY)
    arrays["lm_head.base_layer.weight"] = head_of(model)
    return save(folder, arrays, target_modules=["lm_head", "q_proj"])


def with_weights(model: Path, folder: Path, **weights: np.ndarray) -> Path:
    """The model with these weights, and a head of its own."""
    shutil.copytree(model, folder)
    arrays = {**stored(model), HEAD: mx.array(head_of(model))}
    arrays |= {name: mx.array(value) for name, value in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@BOTH
def test_an_adapted_head_is_applied(model: Path, tmp_path: Path, figure: Check) -> None:
    adapter = adapted_head(model, tmp_path / "adapter")
    plain = with_weights(model, tmp_path / "sum", **low_rank(model, "lm_head", QUERY)[1])
    want = logits(plain, IDS)
    assert largest(want, logits(model, IDS)) > 0.5
    figure(f"adapted head of {model.name}", largest(logits(model, IDS, adapter), want), CLOSE)
    assert continuation(model, [5, 6, 7], 12, adapter) == continuation(plain, [5, 6, 7], 12)
    loaded = _core.models.load(str(model), str(adapter), "float32")[0]
    scored = _core.evaluate.score_tokens(loaded, [(IDS[0].tolist(), 1)])
    figure(
        f"evaluation with an adapted head of {model.name}",
        abs(float(np.mean([-score for score, _ in scored[0]])) - cross_entropy(want[:, :-1], IDS[:, 1:])),
        CLOSE,
    )


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_head_is_its_own(model: Path, dtype: str, tmp_path: Path, figure: Check) -> None:
    _core.models.convert(str(model), str(tmp_path / "base"), dtype)
    base = tmp_path / "base"
    adapter = adapted_head(base, tmp_path / "adapter")
    result = fuse(base, adapter, tmp_path / "merged")
    assert (result.layers, result.dtype) == (2, dtype)
    parameters = stored(tmp_path / "merged")
    assert {str(value.dtype) for value in parameters.values()} == {f"mlx.core.{dtype}"}
    assert mx.array_equal(parameters[EMBEDDING], stored(base)[EMBEDDING])
    assert parameters.keys() == stored(base).keys() | {HEAD}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    want, found = logits(base, IDS, adapter), logits(tmp_path / "merged", IDS)
    share = largest(found, want) / largest(want, logits(base, IDS))
    limit = CLOSE if dtype == "float32" else 2e-2
    figure(f"share of its effect that a merged {dtype} head of {model.name} loses", share, limit)


SAVED: dict[str, tuple[list[str], bool]] = {
    "head": (["lm_head"], False),
    "embeddings": (["embed_tokens"], False),
    "both": (["embed_tokens", "lm_head"], False),
    "tied embeddings": (["embed_tokens"], True),
}


def saved_modules(model: Path, folder: Path, case: str) -> tuple[Path, dict[str, np.ndarray]]:
    """An adapter with whole modules beside it, and the weights that it stands for."""
    modules, tying = SAVED[case]
    arrays, weights = low_rank(model, QUERY)
    shape = head_of(model).shape
    for seed, module in enumerate(modules):
        name = HEAD if module == "lm_head" else EMBEDDING
        arrays[name] = weights[name] = noise(20 + seed, *shape)
    if tying and model == TIED:
        weights[HEAD] = weights[EMBEDDING]
    settings = {"target_modules": ["q_proj"], "modules_to_save": modules, "ensure_weight_tying": tying}
    return save(folder, arrays, **settings), weights


@BOTH
@pytest.mark.parametrize("case", SAVED)
def test_whole_modules_stand_in_for_those_of_the_model(
    model: Path, case: str, tmp_path: Path, figure: Check
) -> None:
    adapter, weights = saved_modules(model, tmp_path / "adapter", case)
    want = logits(with_weights(model, tmp_path / "sum", **weights), IDS)
    figure(f"whole {case}, {model.name}", largest(logits(model, IDS, adapter), want), CLOSE)
    fuse(model, adapter, tmp_path / "merged")
    figure(f"merged whole {case}, {model.name}", largest(logits(tmp_path / "merged", IDS), want), CLOSE)
    data = write_words(tmp_path / "data", [[5, 6, 7, 8]])
    settings: dict[str, Any] = {"iters": 1, "lr": 1e-9, "init_adapter": str(adapter)}
    run = train(model, data, tmp_path / "run", adapter_format="peft", **settings)
    found = logits(model, IDS, run.output)
    figure(f"whole {case}, {model.name}, trained on", largest(found, want), CLOSE)
    with pytest.raises(ConfigError, match=r"init_adapter: .*whole modules.*adapter_format"):
        train(model, data, tmp_path / "mlx", **settings)
    assert not (tmp_path / "mlx" / "adapter_config.json").exists()


@BOTH
def test_a_head_is_put_on_and_taken_off(model: Path, tmp_path: Path) -> None:
    head = adapted_head(model, tmp_path / "head")
    whole, _ = saved_modules(model, tmp_path / "whole", "both")
    loaded, _ = eat.load(model)
    plain = np.asarray(loaded(IDS))
    loaded.load_adapter(head, "head")
    loaded.load_adapter(whole, "whole")
    for name, folder in (("head", head), ("whole", whole), ("head", head)):
        loaded.set_adapter(name)
        assert largest(loaded(IDS), logits(model, IDS, folder)) == 0
    with pytest.raises(ConfigError, match="whole modules"):
        loaded.set_adapter({"whole": 0.5})
    loaded.set_adapter(None)
    assert largest(loaded(IDS), plain) == 0
    loaded, _ = eat.load(model, whole)
    assert loaded.adapters == {"default": 1.0}
    loaded.set_adapter(None)
    assert largest(loaded(IDS), plain) == 0
    loaded.set_adapter("default")
    assert largest(loaded(IDS), logits(model, IDS, whole)) == 0


METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dropout": {"lora_dropout": 0.3},
    "dora": {"method": "dora"},
    "adalora": {"method": "adalora"},
    "pissa": {"lora_init": "pissa"},
}


@BOTH
@pytest.mark.parametrize("method", METHODS)
def test_a_head_is_trained(model: Path, method: str, tmp_path: Path, figure: Check) -> None:
    data = write_words(tmp_path / "data", random_ids(4, [12], seed=3))
    settings: dict[str, Any] = {"iters": 12, "lr": 1e-2, "target_modules": ["lm_head"], **METHODS[method]}
    run = train(model, data, tmp_path / "run", **settings)
    assert run.adapter.keys() >= {"lm_head.lora_a", "lm_head.lora_b"}
    # AdaLoRA starts from singular values of zero.
    assert run.losses[12] < (1 if method == "adalora" else 0.95) * run.losses[1]
    want = logits(model, IDS, run.output)
    assert largest(want, logits(model, IDS)) > 1e-2
    fuse(model, run.output, tmp_path / "merged")
    figure(f"merged head by {method}, {model.name}", largest(logits(tmp_path / "merged", IDS), want), CLOSE)
    if method == "lora":
        convert_adapter(run.output, tmp_path / "peft", model_path=model)
        config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
        assert config["target_modules"] == ["lm_head"]
        assert largest(logits(model, IDS, tmp_path / "peft"), want) == 0


def test_a_named_head_counts_beside_the_last_blocks(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", [[5, 6, 7, 8]])
    run = train(APART, data, tmp_path / "run", iters=1, num_layers=1, target_modules=["q_proj", "lm_head"])
    assert {name.rsplit(".", 1)[0] for name in run.adapter} == {
        "lm_head",
        "model.layers.1.self_attn.q_proj",
    }
    everywhere = train(APART, data, tmp_path / "all", iters=1)
    assert not any(name.startswith("lm_head") for name in everywhere.adapter)


@BOTH
def test_a_copy_below_a_head_is_no_obstacle_to_conversion(model: Path, tmp_path: Path) -> None:
    adapter = adapted_head(model, tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"lm_head\.weight.*give model_path"):
        convert_adapter(adapter, tmp_path / "mlx")
    convert_adapter(adapter, tmp_path / "mlx", model_path=model)
    assert largest(logits(model, IDS, tmp_path / "mlx"), logits(model, IDS, adapter)) < CLOSE
    # Another weight below the head is part of the adapter.
    arrays, _ = low_rank(model, "lm_head")
    arrays["lm_head.base_layer.weight"] = noise(30, *head_of(model).shape)
    other = save(tmp_path / "other", arrays, target_modules=["lm_head"])
    with pytest.raises(ConfigError, match="whole modules"):
        convert_adapter(other, tmp_path / "none", model_path=model)
    changed = {HEAD: arrays["lm_head.base_layer.weight"]}
    if model == TIED:
        changed[EMBEDDING] = changed[HEAD]
    base = with_weights(model, tmp_path / "base", **changed)
    bare = save(tmp_path / "bare", low_rank(model, "lm_head")[0], target_modules=["lm_head"])
    assert largest(logits(model, IDS, other), logits(base, IDS, bare)) < CLOSE


def packed(model: Path, folder: Path) -> Path:
    """The model with its embeddings and head in 8 bits, where others would have 4."""
    shutil.copytree(model, folder)
    arrays = stored(model)
    entry: dict[str, Any] = {"bits": 4, "group_size": 32}
    for name in [name for name in (EMBEDDING, HEAD) if name in arrays]:
        path = name.removesuffix(".weight")
        parts = mx.quantize(arrays.pop(name), 32, 8)
        arrays |= dict(zip((name, f"{path}.scales", f"{path}.biases"), parts, strict=True))
        entry[path] = {"bits": 8, "group_size": 32}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    config = json.loads((folder / "config.json").read_text()) | {"quantization": entry}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("dequantize", [False, True])
def test_a_tied_head_that_is_quantized(dequantize: bool, tmp_path: Path, figure: Check) -> None:
    base = packed(TIED, tmp_path / "base")
    adapter = save(tmp_path / "adapter", low_rank(TIED, "lm_head")[0], target_modules=["lm_head"])
    want = logits(base, IDS, adapter)
    assert largest(want, logits(base, IDS)) > 0.5
    result = fuse(base, adapter, tmp_path / "merged", dequantize=dequantize)
    assert result.quantized is not dequantize
    limit = CLOSE if dequantize else 0.1
    figure(f"merged quantized head, {dequantize=}", largest(logits(tmp_path / "merged", IDS), want), limit)
    whole, weights = saved_modules(TIED, tmp_path / "whole", "both")
    plain = with_weights(TIED, tmp_path / "plain", **weights)
    figure("whole modules over quantized ones", largest(logits(base, IDS, whole), logits(plain, IDS)), CLOSE)


def test_mlx_lm_reads_an_adapted_head(mlx_lm: ModuleType, tmp_path: Path, figure: Check) -> None:
    data = write_words(tmp_path / "data", random_ids(4, [12], seed=3))
    settings: dict[str, Any] = {"iters": 3, "lr": 1e-2, "target_modules": ["lm_head", "up_proj"]}
    run = train(APART, data, tmp_path / "run", **settings)
    theirs, _ = mlx_lm.load(str(APART), adapter_path=str(run.output))
    figure("mlx-lm reads our head", largest(theirs(mx.array(IDS)), logits(APART, IDS, run.output)), CLOSE)
    model, _ = mlx_lm.load(str(APART))
    model.freeze()
    parameters = {"rank": 4, "scale": 3.0, "dropout": 0.0, "keys": ["lm_head", "mlp.up_proj"]}
    mlx_lm.tuner.utils.linear_to_lora_layers(model, 2, parameters)
    drawn = {n: 0.3 * mx.random.normal(v.shape) for n, v in tree_flatten(model.trainable_parameters())}
    model.load_weights(list(drawn.items()), strict=False)
    (tmp_path / "theirs").mkdir()
    mx.save_safetensors(str(tmp_path / "theirs" / "adapters.safetensors"), drawn)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (tmp_path / "theirs" / "adapter_config.json").write_text(json.dumps(config))
    found = logits(APART, IDS, tmp_path / "theirs")
    figure("head of mlx-lm, read", largest(model(mx.array(IDS)), found), CLOSE)


@BOTH
def test_modules_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    arrays, _ = low_rank(model, QUERY)
    narrow = save(
        tmp_path / "narrow", {**arrays, HEAD: np.ones((4, 9), np.float32)}, modules_to_save=["lm_head"]
    )
    with pytest.raises(ModelLoadingError, match=r"\[4, 9\], expected \[256, .*modules_to_save"):
        logits(model, IDS, narrow)
    missing = save(tmp_path / "missing", arrays, modules_to_save=["lm_head"])
    with pytest.raises(ModelLoadingError, match=r"\"lm_head\" in modules_to_save, but it has no tensors"):
        logits(model, IDS, missing)
    unknown = save(tmp_path / "unknown", {**arrays, "score.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(ModelLoadingError, match=r"no parameter \"score\.weight\""):
        logits(model, IDS, unknown)
    whole = save(tmp_path / "int", {**arrays, HEAD: np.ones((4, 9), np.int32)}, modules_to_save=["lm_head"])
    with pytest.raises(ModelLoadingError, match=r"lm_head\.weight.*Int32"):
        logits(model, IDS, whole)


def test_norms_may_be_saved_whole(tmp_path: Path, figure: Check) -> None:
    arrays, weights = low_rank(APART, QUERY)
    name = "model.layers.1.input_layernorm.weight"
    arrays[name] = weights[name] = 1 + noise(3, *stored(APART)[name].shape)
    folder = save(tmp_path / "adapter", arrays, modules_to_save=["layers.1.input_layernorm"])
    want = logits(with_weights(APART, tmp_path / "sum", **weights), IDS)
    figure("norm saved whole", largest(logits(APART, IDS, folder), want), CLOSE)
    fuse(APART, folder, tmp_path / "merged")
    assert largest(tensors(tmp_path / "merged" / "model.safetensors")[name], arrays[name]) == 0
