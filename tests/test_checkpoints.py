"""Checkpoints stored in another way than transformers stores them today: the fixtures, rewritten."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit import _core
from efficientai_toolkit.adapters import fuse
from efficientai_toolkit.exceptions import ModelLoadingError
from support.engine import FIXTURES, MODELS, largest, logits, stored, tensors

if TYPE_CHECKING:
    from support.figures import Check

MLX_ADAPTER = FIXTURES / "lora" / "gradient"
IDS = np.arange(3, 19, dtype=np.int32)[None]
SAME, CLOSE = 1e-6, 1e-4

Arrays = dict[str, Any]


def write(
    folder: Path, case: str, arrays: Mapping[str, Any], config: Callable[[Any], Any] | None = None
) -> Path:
    """The fixture ``case`` with these tensors, and its configuration passed through ``config``."""
    shutil.copytree(MODELS / case, folder)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(arrays), {"format": "pt"})
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps(config(json.loads(path.read_text()))))
    return folder


def config_of(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


def oracle(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, and the logits of transformers."""
    want = tensors(FIXTURES / "expected" / f"{case}.safetensors")
    return want["ids"], want["logits"]


def random_like(array: mx.array) -> mx.array:
    return mx.random.normal(array.shape, key=mx.random.key(5)) * 0.3


@pytest.fixture
def tied() -> Arrays:
    return stored(MODELS / "llama_tied")


EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def test_a_head_of_its_own_is_kept(tied: Arrays, tmp_path: Path, figure: Check) -> None:
    arrays = tied | {HEAD: random_like(tied[EMBEDDINGS])}
    model = write(tmp_path / "model", "llama_tied", arrays)
    untied = write(
        tmp_path / "untied", "llama_tied", arrays, lambda config: config | {"tie_word_embeddings": False}
    )
    want = logits(untied, IDS)
    assert largest(want, logits(MODELS / "llama_tied", IDS)) > 1
    figure("logits of a head beside tied embeddings", largest(logits(model, IDS), want), SAME)
    _core.models.convert(str(model), str(tmp_path / "saved"), "float32")
    assert config_of(tmp_path / "saved")["tie_word_embeddings"] is False
    assert stored(tmp_path / "saved").keys() == arrays.keys()
    figure("the same, saved", largest(logits(tmp_path / "saved", IDS), want), SAME)


def test_merging_keeps_the_head(tmp_path: Path, figure: Check) -> None:
    """The adapter's model has a head, and is called tied."""
    model = write(
        tmp_path / "model",
        "llama_gqa",
        stored(MODELS / "llama_gqa"),
        lambda config: config | {"tie_word_embeddings": True},
    )
    result = fuse(model, MLX_ADAPTER, tmp_path / "merged")
    figure("effect that merging loses beside a head", abs(1 - result.kept), CLOSE)
    want = logits(MODELS / "llama_gqa", IDS, MLX_ADAPTER)
    figure(
        "merged logits of a head beside tied embeddings",
        largest(logits(tmp_path / "merged", IDS), want),
        CLOSE,
    )
    assert config_of(tmp_path / "merged")["tie_word_embeddings"] is False


def test_a_copy_of_the_embeddings_is_one_parameter(tied: Arrays, tmp_path: Path) -> None:
    want = logits(MODELS / "llama_tied", IDS)
    both = write(tmp_path / "both", "llama_tied", tied | {HEAD: tied[EMBEDDINGS]})
    head = {HEAD if name == EMBEDDINGS else name: array for name, array in tied.items()}
    only = write(tmp_path / "only", "llama_tied", head)
    for folder in (both, only):
        assert largest(logits(folder, IDS), want) == 0
        _core.models.convert(str(folder), str(folder / "saved"), "float32")
        assert stored(folder / "saved").keys() == tied.keys()
        assert config_of(folder / "saved")["tie_word_embeddings"] is True


def test_a_packed_head_beside_tied_embeddings(tied: Arrays, tmp_path: Path, figure: Check) -> None:
    """MLX packs a head that its configuration calls tied."""
    head = random_like(tied[EMBEDDINGS])
    parts = dict(zip(("weight", "scales", "biases"), mx.quantize(head, 32, 8), strict=True))
    packed = write(
        tmp_path / "packed",
        "llama_tied",
        tied | {f"lm_head.{part}": value for part, value in parts.items()},
        lambda config: config | {"quantization": {"bits": 8, "group_size": 32}},
    )
    dense = write(tmp_path / "dense", "llama_tied", tied | {HEAD: mx.dequantize(*parts.values(), 32, 8)})
    figure("logits of a packed head", largest(logits(packed, IDS), logits(dense, IDS)), CLOSE)


def test_a_stored_rope_table_is_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers before 4.32 stored it; ever since, it is computed from the configuration."""
    source = stored(MODELS / "llama_gqa")
    want = logits(MODELS / "llama_gqa", IDS)
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    head_dim = config_of(MODELS / "llama_gqa")["head_dim"]
    for theta, warnings in ((10_000.0, 0), (500_000.0, 1)):
        table = mx.array(theta ** -(np.arange(0, head_dim, 2) / head_dim)).astype(mx.float16)
        model = write(tmp_path / str(theta), "llama_gqa", source | {name: table})
        caplog.clear()
        assert largest(logits(model, IDS), want) == 0
        assert len(caplog.records) == warnings, caplog.text
    assert f'"{name}" is not what config.json gives' in caplog.text


def test_most_weights_decide_the_dtype(tmp_path: Path) -> None:
    source = stored(MODELS / "llama_gqa")
    few = ("norm.weight", "layers.0.self_attn.q_proj.weight")
    mixed = {
        name: array.astype(mx.float32 if name.endswith(few) else mx.bfloat16)
        for name, array in source.items()
    }
    model = write(tmp_path / "model", "llama_gqa", mixed, lambda config: config | {"dtype": "bfloat16"})
    result = fuse(model, MLX_ADAPTER, tmp_path / "merged")
    assert result.dtype == "bfloat16"
    assert config_of(tmp_path / "merged")["dtype"] == "bfloat16"
    assert {array.dtype for array in stored(tmp_path / "merged").values()} == {mx.bfloat16}
    # A configuration that says otherwise does not: nothing of wide weights is lost.
    wide = write(tmp_path / "wide", "llama_gqa", source, lambda config: config | {"dtype": "bfloat16"})
    assert fuse(wide, MLX_ADAPTER, tmp_path / "wide-merged").dtype == "float32"
    assert config_of(tmp_path / "wide-merged")["dtype"] == "float32"


def test_shards_need_no_index(tmp_path: Path) -> None:
    folder = shutil.copytree(MODELS / "llama_bf16_sharded", tmp_path / "model")
    ids, want = oracle("llama_bf16_sharded")
    index = folder / "model.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace("-of-00005", "-of-00007"))
    assert largest(logits(folder, ids), want) <= CLOSE
    index.unlink()
    assert largest(logits(folder, ids), want) <= CLOSE
    (folder / "model-00002-of-00005.safetensors").unlink()
    with pytest.raises(ModelLoadingError, match="lacks 1 of 5 shards: model-00002-of-00005"):
        _core.models.load(str(folder))
    index.write_text(text)
    with pytest.raises(ModelLoadingError, match=r'model-00002-of-00005\S+ \(\d+ tensors, such as "'):
        _core.models.load(str(folder))


def stacked_experts(arrays: Arrays) -> Arrays:
    """As transformers 5 holds experts: gates above the other inputs, all of a layer in one tensor."""
    experts: dict[str, dict[int, dict[str, mx.array]]] = {}
    others = {}
    for name, array in arrays.items():
        found = re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)\.weight", name)
        if found:
            path, number, layer = found.groups()
            experts.setdefault(path, {}).setdefault(int(number), {})[layer] = array
        else:
            others[name.replace(".block_sparse_moe.", ".mlp.")] = array
    for place, by_number in experts.items():
        layers = [by_number[number] for number in sorted(by_number)]
        gate, up, down = ("w1", "w3", "w2") if "w1" in layers[0] else ("gate_proj", "up_proj", "down_proj")
        path = place.replace(".block_sparse_moe.", ".mlp.")
        inputs = [mx.concatenate([layer[gate], layer[up]]) for layer in layers]
        others[f"{path}.gate_up_proj"] = mx.stack(inputs)
        others[f"{path}.down_proj"] = mx.stack([layer[down] for layer in layers])
    return others


@pytest.mark.parametrize("case", ["qwen3_moe", "mixtral", "lfm2_moe"])
def test_stacked_experts(case: str, tmp_path: Path, figure: Check) -> None:
    arrays = stacked_experts(stored(MODELS / case))
    assert not any(re.search(r"experts\.\d", name) for name in arrays)
    model = write(tmp_path / "model", case, arrays)
    ids, want = oracle(case)
    figure(f"{case} with stacked experts", largest(logits(model, ids), want), CLOSE)
    _core.models.convert(str(model), str(tmp_path / "saved"), "bfloat16")
    assert stored(tmp_path / "saved").keys() == stored(MODELS / case).keys()
    figure(f"{case} with stacked experts, saved", largest(logits(tmp_path / "saved", ids), want), CLOSE)


def test_broken_stacks_are_named(tmp_path: Path) -> None:
    arrays = stacked_experts(stored(MODELS / "qwen3_moe"))
    name = next(name for name in arrays if name.endswith("experts.gate_up_proj"))
    flat = write(tmp_path / "flat", "qwen3_moe", arrays | {name: arrays[name][0]})
    with pytest.raises(ModelLoadingError, match=f'"{name}".*three dimensions'):
        _core.models.load(str(flat))
    few = write(tmp_path / "few", "qwen3_moe", arrays | {name: arrays[name][:-1]})
    with pytest.raises(ModelLoadingError, match=r"missing tensor .*experts\.5\.gate_proj"):
        _core.models.load(str(few))


@pytest.mark.parametrize("case", ["llama_tied", "gemma2", "gemma3_text", "lfm2"])
def test_a_base_model_without_head(case: str, tmp_path: Path, figure: Check) -> None:
    """As ``AutoModel`` saves it."""
    arrays = {name.removeprefix("model."): array for name, array in stored(MODELS / case).items()}
    model = write(tmp_path / "model", case, arrays, lambda config: config | {"architectures": ["LlamaModel"]})
    ids, want = oracle(case)
    figure(f'{case} without "model."', largest(logits(model, ids), want), CLOSE)
    _core.models.convert(str(model), str(tmp_path / "saved"), "float32")
    assert stored(tmp_path / "saved").keys() == stored(MODELS / case).keys()
    assert config_of(tmp_path / "saved")["architectures"] == ["LlamaForCausalLM"]


def test_a_missing_head_is_named(tmp_path: Path) -> None:
    arrays = stored(MODELS / "llama_gqa")
    del arrays[HEAD]
    bare = {name.removeprefix("model."): array for name, array in arrays.items()}
    with pytest.raises(ModelLoadingError, match=r'missing tensor "lm_head\.weight"'):
        _core.models.load(str(write(tmp_path / "model", "llama_gqa", bare)))


WRAPPERS = {
    "gemma3": "gemma3_text",
    "idefics3": "llama_gqa",
    "internvl": "qwen3",
    "lfm2_vl": "lfm2",
    "llava": "llama_gqa",
    "llava_next": "mistral_window",
    "llava_onevision": "qwen2",
    "mistral3": "mistral_window",
    "smolvlm": "llama_tied",
    "vipllava": "llama_bias",
}


def wrapped(folder: Path, kind: str, generation: str, more: Arrays | None = None) -> Path:
    """A fixture as the text tower of a larger model, named as by one ``generation`` of transformers."""
    tower = "text_model" if kind in {"idefics3", "smolvlm"} else "language_model"

    def rename(name: str) -> str:
        inner = name.removeprefix("model.")
        if generation == "old":
            return f"{tower}.{name}"
        return f"model.{tower}.{inner}" if inner != name else name

    def config(text: Any) -> Any:
        shared = {
            key: text.pop(key) for key in ("dtype", "eos_token_id", "tie_word_embeddings") if key in text
        }
        return {"model_type": kind, "text_config": text, "vision_config": {}, **shared}

    arrays = {rename(name): array for name, array in stored(MODELS / WRAPPERS[kind]).items()}
    vision = {"vision_tower.patch.weight": mx.ones((3, 3)), "model.multi_modal_projector.bias": mx.ones(2)}
    return write(folder, WRAPPERS[kind], arrays | vision | (more or {}), config)


@pytest.mark.parametrize("generation", ["old", "new"])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_language_model_of_a_larger_one(
    kind: str, generation: str, tmp_path: Path, figure: Check
) -> None:
    model = wrapped(tmp_path / "model", kind, generation)
    ids, want = oracle(WRAPPERS[kind])
    figure(f"text tower of {kind}, {generation} names", largest(logits(model, ids), want), CLOSE)
    _core.models.convert(str(model), str(tmp_path / "saved"), "float32")
    config = config_of(tmp_path / "saved")
    source = config_of(MODELS / WRAPPERS[kind])
    assert [config[key] for key in ("model_type", "architectures", "eos_token_id")] == [
        source[key] for key in ("model_type", "architectures", "eos_token_id")
    ]
    assert stored(tmp_path / "saved").keys() == stored(MODELS / WRAPPERS[kind]).keys()
    figure(f"text tower of {kind}, saved", largest(logits(tmp_path / "saved", ids), want), CLOSE)


def test_an_adapter_is_merged_into_a_text_tower(
    tmp_path: Path, figure: Check, caplog: pytest.LogCaptureFixture
) -> None:
    model = wrapped(tmp_path / "model", "llava", "new")
    result = fuse(model, MLX_ADAPTER, tmp_path / "merged")
    assert result.kept > 1 - CLOSE
    want = logits(MODELS / "llama_gqa", IDS, MLX_ADAPTER)
    figure("adapter merged into a text tower", largest(logits(tmp_path / "merged", IDS), want), CLOSE)
    loaded, _ = _core.models.load(str(model))
    assert (loaded.model_type, "vision_config" in loaded.config) == ("llama", False)
    assert "only the language model" in caplog.text


def test_a_packed_text_tower(tmp_path: Path, figure: Check) -> None:
    """As MLX packs larger models, with layers of other bits by their full names."""
    packed: Arrays = {}
    formats: dict[str, Any] = {}
    for name, weight in stored(MODELS / "llama_tied").items():
        path = name.removesuffix(".weight")
        if not name.endswith("_proj.weight"):
            packed[name] = weight
            continue
        bits = 8 if path.endswith("down_proj") else 4
        parts = mx.quantize(weight, 32, bits)
        packed |= dict(zip((name, f"{path}.scales", f"{path}.biases"), parts, strict=True))
        if bits == 8:
            formats[path] = {"bits": 8, "group_size": 32}
    uniform = {"bits": 4, "group_size": 32}
    plain = write(
        tmp_path / "plain", "llama_tied", packed, lambda config: config | {"quantization": uniform | formats}
    )
    towers = {f"language_model.{path}": settings for path, settings in formats.items()}
    tower = write(
        tmp_path / "tower",
        "llama_tied",
        {f"language_model.{name}": array for name, array in packed.items()},
        lambda config: {"model_type": "llava", "text_config": config, "quantization": uniform | towers},
    )
    want = logits(plain, IDS)
    figure("packed text tower", largest(logits(tower, IDS), want), SAME)
    _core.models.convert(str(tower), str(tmp_path / "saved"), "float32")
    figure("packed text tower, saved", largest(logits(tmp_path / "saved", IDS), want), SAME)


def test_only_known_towers_are_left_out(tmp_path: Path) -> None:
    model = wrapped(tmp_path / "model", "llava", "new", {"audio_tower.weight": mx.ones(3)})
    with pytest.raises(ModelLoadingError, match=r'unexpected tensor "audio_tower\.weight"'):
        _core.models.load(str(model))
    plain = write(
        tmp_path / "plain", "llama_gqa", stored(MODELS / "llama_gqa") | {"vision_tower.weight": mx.ones(3)}
    )
    with pytest.raises(ModelLoadingError, match=r'unexpected tensor "vision_tower\.weight"'):
        _core.models.load(str(plain))


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "compressed-tensors", "auto-round", "hqq"])
def test_foreign_quantization_is_named(method: str, tmp_path: Path) -> None:
    arrays = stored(MODELS / "llama_gqa")
    name = "model.layers.0.mlp.up_proj.weight"
    model = write(
        tmp_path / "model",
        "llama_gqa",
        arrays | {name: mx.zeros(arrays[name].shape, mx.uint8)},
        lambda config: config | {"quantization_config": {"quant_method": method}},
    )
    with pytest.raises(ModelLoadingError, match=f'config.json: .* by "{method}" are not supported: load the'):
        _core.models.load(str(model))


def test_codes_without_a_format_are_named(tmp_path: Path) -> None:
    arrays = stored(MODELS / "llama_gqa")
    name = "model.layers.0.mlp.up_proj.weight"
    model = write(tmp_path / "model", "llama_gqa", arrays | {name: mx.zeros((4, 4), mx.uint8)})
    with pytest.raises(ModelLoadingError, match=f'"{name}" is Uint8, .* names no quantization'):
        _core.models.load(str(model))
