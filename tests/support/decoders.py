"""Small random decoders of all families that exports know."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from efficientai_toolkit import _core
from efficientai_toolkit._base.assets import MODEL

_COMMON = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 2048,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 0,
    "initializer_range": 0.1,
}

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_tied": {"tie_word_embeddings": True},
    "llama_biases": {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
    "llama_llama3": {"rope_scaling": LLAMA3},
    "llama_yarn": {"rope_scaling": YARN},
    "llama_linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "mistral": {"model_type": "mistral", "sliding_window": 6},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3"},
    "smollm3": {"model_type": "smollm3", "no_rope_layer_interval": 2},
    "phi3": {"model_type": "phi3", "partial_rotary_factor": 0.5, "sliding_window": 6},
    "gemma2": {
        "model_type": "gemma2",
        "sliding_window": 6,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 16,
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "sliding_window": 6,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16,
        "rope_local_base_freq": 100.0,
    },
}


def random_decoder(folder: Path, family: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """A model none of whose vectors is constant, with the bundled model's tokenizer."""
    config = {**_COMMON, **FAMILIES[family], **changes}
    _core.models.create(json.dumps(config), str(folder), seed)
    path = folder / "model.safetensors"
    rng = np.random.default_rng(seed)
    tensors = {
        name: value if value.ndim > 1 else (value + 0.3 * rng.normal(size=value.shape)).astype(np.float32)
        for name, value in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(Path(MODEL) / name, folder / name)
    return folder


def random_adapter(folder: Path, model: Path, seed: int = 1) -> Path:
    """A LoRA adapter of the query and down projections, in PEFT's format."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, value in load_file(model / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "down_proj.weight")):
            path = "base_model.model." + name.removesuffix(".weight")
            rows, columns = value.shape
            tensors[f"{path}.lora_A.weight"] = (rng.normal(size=(4, columns)) / 8).astype(np.float32)
            tensors[f"{path}.lora_B.weight"] = (rng.normal(size=(rows, 4)) / 8).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
