"""Small random models of every family that GGUF holds, and what a file of them must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np

from efficientai_toolkit import _core
from support.engine import stored
from support.tokenizers import byte_level

SIZES = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
"""Rows that are whole superblocks of 256."""

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-bias": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-scaled": {
        "model_type": "llama",
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 64, "tie_word_embeddings": True},
    "gemma3_text": {"query_pre_attn_scalar": 64, "tie_word_embeddings": True},
    "phi3": {},
    "lfm2": {
        "norm_eps": 1e-5,
        "layer_types": ["conv", "full_attention"],
        "block_multiple_of": 256,
        "tie_word_embeddings": True,
    },
    "smollm3": {"tie_word_embeddings": True},
}
"""Settings of each family, beyond :data:`SIZES`."""

INTERLEAVED = {"llama", "smollm3"}
"""Architectures whose files pair the rows of queries and keys that are rotated together."""


def create(folder: Path, family: str, **settings: Any) -> Path:
    """A random model with a byte-level tokenizer."""
    config = {**SIZES, "model_type": family, **FAMILIES[family], **settings}
    _core.models.create(json.dumps(config), str(folder), 3)
    # Norms that are all one would hide a mistake.
    rng = np.random.default_rng(5)
    tensors = {
        name: mx.array(rng.normal(size=value.shape), mx.float32) if value.ndim == 1 else value
        for name, value in stored(folder).items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    add_tokenizer(folder)
    return folder


def add_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(byte_level()))
    named = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def quantize(source: Path, folder: Path, *, bits: int, group_size: int, dtype: Any = mx.bfloat16) -> Path:
    """The model as MLX quantizes it."""
    folder.mkdir()
    for file in source.glob("*.json"):
        (folder / file.name).write_text(file.read_text())
    tensors: dict[str, Any] = {}
    for name, value in stored(source).items():
        path = name.removesuffix(".weight")
        if value.ndim == 2 and "norm" not in name:
            parts = mx.quantize(value.astype(dtype), group_size, bits)
            tensors |= dict(zip((name, f"{path}.scales", f"{path}.biases"), parts, strict=True))
        else:
            tensors[name] = value.astype(dtype)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"bits": bits, "group_size": group_size}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class File:
    """A file as the package ``gguf`` reads it."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.values: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        self.types: dict[str, str] = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        self.bytes = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
        self.tensors = {
            tensor.name: gguf.dequantize(np.array(tensor.data), tensor.tensor_type)
            for tensor in reader.tensors
        }


def expected(folder: Path, architecture: str) -> dict[str, np.ndarray]:
    """What a file of the model holds in full precision, by llama.cpp's own table of names."""
    config = json.loads((folder / "config.json").read_text())
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    tensors: dict[str, np.ndarray] = {}
    for name, array in stored(folder).items():
        value = np.array(array.astype(mx.float32))
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        key = heads.get(name.split(".")[-2])
        if key is not None and architecture in INTERLEAVED:
            value = interleave(value, config[key])
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            value = value + np.float32(1)
        if name.endswith(".conv.conv.weight"):
            value = value.reshape(value.shape[0], -1)
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        tensors[found] = value
    return tensors


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """The order of rows in llama.cpp's converter."""
    parts = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return parts.swapaxes(1, 2).reshape(rows.shape)
