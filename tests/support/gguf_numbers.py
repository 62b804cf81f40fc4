"""The numbers of GGUF files as the package ``gguf`` reads them, by the names of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from support.gguf_files import unpermute


def values_of(path: Path) -> dict[str, Any]:
    """The metadata of a file."""
    reader = gguf.GGUFReader(path)
    return {key: field.contents() for key, field in reader.fields.items()}


def dequantized(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file, in float32 and the order of transformers."""
    reader = gguf.GGUFReader(path)
    values = {key: reader.fields[key].contents() for key in reader.fields if "tokens" not in key}
    arch = str(values["general.architecture"])
    heads = int(values[f"{arch}.attention.head_count"])
    kv_heads = int(values[f"{arch}.attention.head_count_kv"])
    turned = {"q_proj": heads, "k_proj": kv_heads} if arch == "llama" else {}
    result = {}
    for tensor in reader.tensors:
        part, leaf = tensor.name.rsplit(".", 1)
        name = f"{_name(part, arch)}.{leaf}"
        shape = tuple(int(size) for size in reversed(tensor.shape))
        value = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        count = turned.get(name.split(".")[-2])
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            value -= np.float32(1)
        result[name] = unpermute(value, count) if count else value
    return result


_LLAMA = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA = {
    **_LLAMA,
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def _name(part: str, arch: str) -> str:
    """``blk.0.attn_q`` → ``model.layers.0.self_attn.q_proj``"""
    if part in _OUTER:
        return _OUTER[part]
    _, index, inner = part.split(".")
    return f"model.layers.{index}.{(_GEMMA if arch.startswith('gemma') else _LLAMA)[inner]}"
