"""GGUF files, written by the package ``gguf`` of llama.cpp: its names, its encoders, its container."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file, save_file

from efficientai_toolkit import _core
from support.engine import MODELS

Json = dict[str, Any]
Weights = dict[str, np.ndarray]

ENCODED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")
"""Types that the package encodes."""
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
"""Types that it only decodes; any bytes are valid blocks."""

SMALL: Json = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

SCALINGS: dict[str, Json] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


@dataclass
class Family:
    """An architecture: what its ``config.json`` has besides :data:`SMALL`, and what its file has."""

    name: str
    """``general.architecture``."""
    config: Json
    metadata: Callable[[gguf.GGUFWriter], None] = field(default=lambda _writer: None)


def _gemma(writer: gguf.GGUFWriter) -> None:
    writer.add_sliding_window(8)


def _gemma2(writer: gguf.GGUFWriter) -> None:
    _gemma(writer)
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)


def _phi3(writer: gguf.GGUFWriter) -> None:
    writer.add_sliding_window(0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    writer.add_rope_scaling_orig_ctx_len(16)
    factors = np.linspace(1.0, 2.0, 16, dtype=np.float32)
    writer.add_tensor("rope_factors_short.weight", factors)
    writer.add_tensor("rope_factors_long.weight", factors * 3)


def _lfm2(writer: gguf.GGUFWriter) -> None:
    writer.add_shortconv_l_cache(3)
    writer.add_vocab_size(320)


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", {"model_type": "llama"}),
    "qwen2": Family("qwen2", {"model_type": "qwen2"}),
    "qwen3": Family("qwen3", {"model_type": "qwen3"}),
    "smollm3": Family("smollm3", {"model_type": "smollm3", "num_hidden_layers": 5, "rope_theta": 2e6}),
    "gemma2": Family(
        "gemma2",
        {
            "model_type": "gemma2",
            "sliding_window": 8,
            "query_pre_attn_scalar": 32,
            "num_hidden_layers": 3,
            "tie_word_embeddings": True,
        },
        _gemma2,
    ),
    "gemma3": Family(
        "gemma3",
        {
            "model_type": "gemma3_text",
            "sliding_window": 8,
            "query_pre_attn_scalar": 32,
            "num_hidden_layers": 7,
            "rope_theta": 1e6,
            "tie_word_embeddings": True,
        },
        _gemma,
    ),
    "phi3": Family(
        "phi3",
        {
            "model_type": "phi3",
            "original_max_position_embeddings": 16,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [float(x) for x in np.linspace(1.0, 2.0, 16, dtype=np.float32)],
                "long_factor": [float(x) for x in np.linspace(1.0, 2.0, 16, dtype=np.float32) * 3],
            },
        },
        _phi3,
    ),
    "lfm2": Family(
        "lfm2",
        {
            "model_type": "lfm2",
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
            "norm_eps": 1e-5,
            "conv_L_cache": 3,
            "tie_word_embeddings": True,
        },
        _lfm2,
    ),
}


def family_config(name: str, **changes: Any) -> Json:
    """The ``config.json`` of a small model of a family."""
    return {**SMALL, **FAMILIES[name].config, **changes}


def random_weights(folder: Path, config: Json, seed: int = 3) -> Weights:
    """Write a model with random weights, norms and biases included, and return these."""
    _core.models.create(json.dumps(config), folder, seed)
    rng = np.random.default_rng(seed)
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        spread = 0.3 if value.ndim == 1 else 0.1
        noise = rng.normal(size=value.shape).astype(np.float32)
        weights[name] = (value if value.ndim == 1 else 0) + spread * noise
    return weights


def random_blocks(rng: np.random.Generator, kind: Type, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes of blocks of ``kind`` whose scales are neither infinite nor not a number."""
    size, count = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // size, count), dtype=np.uint8)
    scale = rng.uniform(1e-4, 1e-3, (*blocks.shape[:-1], 1)).astype(np.float16).view(np.uint8)
    for at in {
        Type.Q2_K: (80, 82),
        Type.Q3_K: (108,),
        Type.Q4_K: (0, 2),
        Type.Q5_K: (0, 2),
        Type.Q6_K: (208,),
    }[kind]:
        blocks[..., at : at + 2] = scale
    return blocks.reshape(*shape[:-1], -1)


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of queries or keys as the converter of llama.cpp stores them."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of :func:`permute`."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    path: Path,
    family: str,
    config: Json,
    weights: Weights,
    types: Callable[[str], str] = lambda _name: "F32",
    tokenizer: Callable[[gguf.GGUFWriter], None] | None = None,
    metadata: Mapping[str, str | int | float] | None = None,
) -> Weights:
    """Write a file with matrices of the types that ``types`` says; returns its numbers by our names."""
    rng = np.random.default_rng(5)
    arch = FAMILIES[family].name
    writer = gguf.GGUFWriter(path, arch)
    _add_settings(writer, family, config)
    for key, setting in (metadata or {}).items():
        add: Callable[..., None] = {
            str: writer.add_string,
            int: writer.add_uint32,
            float: writer.add_float32,
        }[type(setting)]
        add(key, setting)
    (tokenizer or byte_level)(writer)
    arch_key = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(arch_key, config["num_hidden_layers"])
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    turned = {"q_proj": heads, "k_proj": kv_heads} if arch in {"llama", "smollm3"} else {}
    result = {}
    for name, value in weights.items():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, name
        layer = name.split(".")[-2]
        count = turned.get(layer)
        stored = permute(value, count) if count else value
        stored = stored.squeeze(1) if layer == "conv" and value.ndim == 3 else stored
        shift = 1.0 if arch.startswith("gemma") and name.endswith("norm.weight") else 0.0
        kind = Type[types(name)] if stored.ndim == 2 and layer != "conv" else Type.F32
        if kind.name in K_QUANTS:
            data = random_blocks(rng, kind, stored.shape)
        else:
            data = gguf.quantize(stored + np.float32(shift), kind)
        writer.add_tensor(found, data, raw_dtype=kind)
        numbers = gguf.dequantize(data, kind).reshape(stored.shape) - np.float32(shift)
        result[name] = (unpermute(numbers, count) if count else numbers).reshape(value.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return result


def _add_settings(writer: gguf.GGUFWriter, family: str, config: Json) -> None:
    """The values that describe the model of ``config``."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    kv_heads = config["num_key_value_heads"]
    types = config.get("layer_types") if family == "lfm2" else None
    writer.add_head_count_kv([0 if kind == "conv" else kv_heads for kind in types] if types else kv_heads)
    FAMILIES[family].metadata(writer)
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") in {"linear", "yarn"}:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
        if "original_max_position_embeddings" in scaling:
            writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if scaling.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))


def llama3_factors(config: Json) -> np.ndarray:
    """The tensor that the converter of llama.cpp writes for the rotation of Llama 3."""
    scaling, dims = config["rope_scaling"], config["head_dim"]
    original = scaling["original_max_position_embeddings"]
    low, high = original / scaling["low_freq_factor"], original / scaling["high_freq_factor"]
    factors = []
    for i in range(0, dims, 2):
        wavelength = 2 * np.pi * config["rope_theta"] ** (i / dims)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(scaling["factor"])
        else:
            smooth = (original / wavelength - scaling["low_freq_factor"]) / (
                scaling["high_freq_factor"] - scaling["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, np.float32)


def save_dense(folder: Path, config: Json, weights: Weights) -> Path:
    """A model folder in Hugging Face format, with a tokenizer of other tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(MODELS / "llama_gqa" / "tokenizer.json", folder)
    (folder / "config.json").write_text(json.dumps(config))
    arrays = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def byte_alphabet() -> list[str]:
    """The character of each byte in the alphabet of GPT-2."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


MERGES = ("Ġ t", "h e", "Ġt he", "i n", "Ġ Ġ", "a n", "e r")
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def byte_level(writer: gguf.GGUFWriter, pre: str = "gpt-2", size: int = 320) -> None:
    """Three special tokens, the bytes, a few merges, and unused tokens up to ``size``."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_alphabet()]
    tokens += [merge.replace(" ", "") for merge in MERGES]
    types = [3, 3, 3] + [1] * (len(tokens) - 3)
    unused = size - len(tokens)
    tokens += [f"[unused{i}]" for i in range(unused)]
    types += [5] * unused
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT)


PIECES = ["▁the", "▁cat", "he", "▁t", "ca", "▁c", "at", "th", "the", "tt", "▁▁", "in", "ing", "▁in"]
LETTERS = ["▁", *"abcdefghijklmnopqrst"]


def sentencepiece_tokens() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a small vocabulary."""
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    types = [2, 3, 3, *[6] * 256]
    scores = [0.0] * len(tokens)
    tokens += [*PIECES, *LETTERS, "\n\n", "<|user|>"]
    scores += [-float(rank) for rank in range(len(PIECES) + len(LETTERS))] + [-1000.0, -1000.0]
    types += [1] * (len(PIECES) + len(LETTERS)) + [4, 3]
    while len(tokens) < SMALL["vocab_size"]:
        tokens.append(f"[PAD{len(tokens)}]")
        scores.append(-10_000.0)
        types.append(5)
    return tokens, scores, types


def sentencepiece(*, space: bool | None = None, bos: bool | None = None) -> Callable[[gguf.GGUFWriter], None]:
    """Writes that vocabulary."""

    def write(writer: gguf.GGUFWriter) -> None:
        tokens, scores, types = sentencepiece_tokens()
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        if space is not None:
            writer.add_add_space_prefix(space)
        if bos is not None:
            writer.add_add_bos_token(bos)

    return write
