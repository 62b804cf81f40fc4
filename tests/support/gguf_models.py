"""Small random models of every family that GGUF holds, and what the package ``gguf`` finds in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np

from support.engine import stored
from support.gguf_files import FAMILIES, SCALINGS, family_config, permute, random_weights, save_dense
from support.tokenizers import byte_level

WIDE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "max_position_embeddings": 128,
    "block_multiple_of": 256,
}
"""Rows that are whole superblocks of 256."""

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "gemma2": ("gemma2", {"tie_word_embeddings": True}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-scaled": ("llama", {"rope_scaling": SCALINGS["llama3"]}),
    "mistral": ("llama", {"model_type": "mistral", "sliding_window": None}),
}
"""Family of each model, and what it has beyond it."""

INTERLEAVED = {"llama", "smollm3"}
"""Architectures whose files pair the rows of queries and keys that are rotated together."""


def create(folder: Path, model: str, **settings: Any) -> Path:
    """A random model with a byte-level tokenizer."""
    family, own = MODELS[model]
    config = family_config(family, **{**WIDE, **own, **settings})
    save_dense(folder, config, random_weights(folder, config))
    (folder / "tokenizer.json").write_text(json.dumps(byte_level()))
    named = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def change(folder: Path, name: str, value: Any) -> None:
    """Replace a tensor of a model by ``value``, or by what it returns for it."""
    arrays = stored(folder)
    arrays[name] = value(arrays[name]) if callable(value) else value
    mx.eval(arrays)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "pt"})


def quantize(source: Path, folder: Path, *, bits: int, group_size: int, dtype: Any = mx.bfloat16) -> Path:
    """The model as MLX quantizes it."""
    folder.mkdir()
    for file in source.glob("*.json"):
        (folder / file.name).write_text(file.read_text())
    tensors: dict[str, Any] = {}
    for name, value in stored(source).items():
        path = name.removesuffix(".weight")
        if value.ndim == 2:
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

    @property
    def architecture(self) -> str:
        return str(self.values["general.architecture"])


def expected(folder: Path, architecture: str) -> dict[str, np.ndarray]:
    """What a file of the model holds in full precision, by llama.cpp's own table of names."""
    config = json.loads((folder / "config.json").read_text())
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors: dict[str, np.ndarray] = {}
    for name, array in stored(folder).items():
        value = np.array(array.astype(mx.float32))
        count = heads.get(name.split(".")[-2])
        if count is not None and architecture in INTERLEAVED:
            value = permute(value, count)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            value = value + np.float32(1)
        if name.endswith(".conv.conv.weight"):
            value = value.reshape(value.shape[0], -1)
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        tensors[found] = value
    return tensors
