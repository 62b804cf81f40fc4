"""Checkpoints and data of the benches: random numbers in well-known shapes, made once per machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden": 256, "mlp": 704, "layers": 4, "heads": 4, "kv_heads": 2, "vocab": 2048},
    "100m": {"hidden": 768, "mlp": 2048, "layers": 12, "heads": 12, "kv_heads": 12, "vocab": 32000},
    "0.5b-32k": {"hidden": 896, "mlp": 4864, "layers": 24, "heads": 14, "kv_heads": 2, "vocab": 32000},
    "qwen2-0.5b": {"hidden": 896, "mlp": 4864, "layers": 24, "heads": 14, "kv_heads": 2, "vocab": 151936},
    "1b": {"hidden": 2048, "mlp": 8192, "layers": 16, "heads": 32, "kv_heads": 8, "vocab": 128256},
}
"""Llama models with a tied head. `qwen2-0.5b` has the sizes of Qwen2-0.5B without its biases, `0.5b-32k` also
a smaller vocabulary; `1b` has the sizes of Llama-3.2-1B."""

WEIGHTS = "model.safetensors"

END = 0
"""Token that ends a text. Its embedding is zero, so that greedy decoding never stops early."""


def default_cache() -> Path:
    """Where checkpoints are kept: the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "efficientai_toolkit" / "benches"


def checkpoint(shape: str, cache: Path) -> Path:
    """Give the folder of `shape`'s checkpoint (float16, Hugging Face format); make it if it is not there."""

    def make(folder: Path) -> None:
        from safetensors.numpy import save_file

        size = SHAPES[shape]
        save_file(dict(_weights(size)), str(folder / WEIGHTS), metadata={"format": "pt"})
        write_json(folder / "config.json", _config(size))
        write_json(folder / "tokenizer.json", _tokenizer(size["vocab"]))
        special = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "pad_token": "<eos>"}
        write_json(folder / "tokenizer_config.json", special)

    return made_once(cache / shape, make)


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Give `folder`; if it is not there, `make` fills one that takes its place only when it is whole."""
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    make(partial)
    try:
        partial.rename(folder)
    except OSError:  # Another run made it meanwhile.
        shutil.rmtree(partial)
    return folder


def training_data(shape: str, rows: int, length: int, cache: Path) -> Path:
    """Give a data folder for `shape`.

    Every row has exactly `length` + 1 tokens, the end of text included: `length` inputs, no padding for
    anyone. `train.jsonl` has `rows` rows, `valid.jsonl` one.
    """

    def make(folder: Path) -> None:
        rng = np.random.default_rng(1)
        for name, count in (("train", rows), ("valid", 1)):
            lines = (json.dumps({"text": words(shape, length, rng)}) + "\n" for _ in range(count))
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    return made_once(cache / "data" / f"{shape}-{rows}x{length}", make)


def words(shape: str, length: int, rng: np.random.Generator) -> str:
    """Random text of `length` tokens."""
    ids = rng.integers(1, SHAPES[shape]["vocab"], length)
    return " ".join(f"w{i}" for i in ids)


def _weights(size: dict[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    hidden, mlp = size["hidden"], size["mlp"]
    keys = hidden // size["heads"] * size["kv_heads"]

    def normal(out: int, inputs: int, gain: float = 1.0) -> np.ndarray:
        scale = np.float32(gain * inputs**-0.5)
        return (scale * rng.standard_normal((out, inputs), np.float32)).astype(np.float16)

    # A small embedding lets the blocks decide; a tied head would otherwise echo the last word for ever.
    embedding = normal(size["vocab"], hidden, 0.1)
    embedding[END] = 0
    yield "model.embed_tokens.weight", embedding
    yield "model.norm.weight", np.ones(hidden, np.float16)
    for layer in range(size["layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", np.ones(hidden, np.float16)
        yield f"{at}.post_attention_layernorm.weight", np.ones(hidden, np.float16)
        yield f"{at}.self_attn.q_proj.weight", normal(hidden, hidden)
        yield f"{at}.self_attn.k_proj.weight", normal(keys, hidden)
        yield f"{at}.self_attn.v_proj.weight", normal(keys, hidden)
        yield f"{at}.self_attn.o_proj.weight", normal(hidden, hidden)
        yield f"{at}.mlp.gate_proj.weight", normal(mlp, hidden)
        yield f"{at}.mlp.up_proj.weight", normal(mlp, hidden)
        yield f"{at}.mlp.down_proj.weight", normal(hidden, mlp)


def _config(size: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size["vocab"],
        "hidden_size": size["hidden"],
        "intermediate_size": size["mlp"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["kv_heads"],
        "max_position_embeddings": 8192,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": END,
        "eos_token_id": END,
        "torch_dtype": "float16",
    }


def _tokenizer(vocab: int) -> dict[str, object]:
    """Give a `tokenizer.json` with one token per word: `w1`, `w2`, …"""
    end = {"id": END, "content": "<eos>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    ids = {"<eos>": END} | {f"w{i}": i for i in range(1, vocab)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end | flags],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<eos>"},
    }


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
