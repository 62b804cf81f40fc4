"""The checkpoints of the benches in 4 bits: in MLX's format and in llama.cpp's, made once per machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapes

GROUP = 64
"""Weights that share a scale and a bias in MLX's format."""


def mlx_q4(shape: str, cache: Path) -> Path:
    """Give the folder of `shape`'s checkpoint with every matrix in MLX's affine 4-bit format."""
    source = shapes.checkpoint(shape, cache)

    def make(folder: Path) -> None:
        import mlx.core as mx

        weights = {}
        for name, value in _tensors(source):
            if value.ndim == 1:
                weights[name] = mx.array(value)
                continue
            parts = mx.quantize(mx.array(value), group_size=GROUP, bits=4)
            stem = name.removesuffix("weight")
            weights |= {
                f"{stem}{part}": x for part, x in zip(("weight", "scales", "biases"), parts, strict=True)
            }
            mx.eval(parts)
        mx.save_safetensors(str(folder / shapes.WEIGHTS), weights, metadata={"format": "mlx"})
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, folder / name)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        shapes.write_json(folder / "config.json", config | {"quantization": {"group_size": GROUP, "bits": 4}})

    return shapes.made_once(cache / f"{shape}-q4", make)


def gguf_q4_0(shape: str, cache: Path) -> Path:
    """Give `shape`'s checkpoint as a GGUF file with every matrix, the head too, in blocks of type Q4_0.

    It has no vocabulary, and the rows of the queries and keys are not in the order that llama.cpp rotates:
    the file is for measuring speed.
    """
    source = shapes.checkpoint(shape, cache)
    size = shapes.SHAPES[shape]
    file = "model.gguf"

    def make(folder: Path) -> None:
        from gguf import (
            MODEL_ARCH,
            GGMLQuantizationType,
            GGUFWriter,
            LlamaFileType,
            get_tensor_name_map,
            quants,
        )

        writer = GGUFWriter(folder / file, "llama")
        writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
        writer.add_context_length(8192)
        writer.add_embedding_length(size["hidden"])
        writer.add_block_count(size["layers"])
        writer.add_feed_forward_length(size["mlp"])
        writer.add_head_count(size["heads"])
        writer.add_head_count_kv(size["kv_heads"])
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(size["vocab"])
        writer.add_tokenizer_model("no_vocab")
        names = get_tensor_name_map(MODEL_ARCH.LLAMA, size["layers"])
        for name, value in _tensors(source):
            wide = value.astype(np.float32)
            target = names.get_name(name, try_suffixes=(".weight",))
            if value.ndim == 1:
                writer.add_tensor(target, wide)
            else:
                kind = GGMLQuantizationType.Q4_0
                writer.add_tensor(target, quants.quantize(wide, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return shapes.made_once(cache / f"{shape}-q4_0", make) / file


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    with safe_open(folder / shapes.WEIGHTS, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118  (not a dict)
            yield name, file.get_tensor(name)
