"""Configurations whose keys compete: old and new names together, nulls, and keys in either of two places.

Each is a small checkpoint of the fixtures with another ``config.json``. Nothing here needs torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from parity.rotations import (
    DEFAULT,
    DYNAMIC,
    GEMMA3,
    LINEAR,
    METHODS,
    PHI3,
    WHERE,
    Edits,
    longrope,
    longropes,
    new,
    old,
    yarn,
)

BASES = {
    "gemma2": "gemma2",
    "gemma3_text": "gemma3_text",
    "gpt_oss": "gpt_oss",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2_moe",
    "llama": "llama_gqa",
    "mistral": "mistral_window",
    "mixtral": "mixtral",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "smollm3": "smollm3",
}
"""The checkpoint that each family's configurations change."""

POSITIONS = [17, 29, 39]
WORDS = 4
"""What is stored of the logits: these positions, and the first so many words."""

FULL, SLIDING = "full_attention", "sliding_attention"
QWEN: dict[str, Edits] = {
    "window not used": {"use_sliding_window": False, "sliding_window": 6, "layer_types": ...},
    "window used by default": {"use_sliding_window": ..., "sliding_window": 6, "layer_types": ...},
    "window from the first layer": {"sliding_window": 6, "max_window_layers": 0, "layer_types": ...},
    "window from the second layer": {"sliding_window": 6, "max_window_layers": 1, "layer_types": ...},
    "window from no layer": {"sliding_window": 6, "max_window_layers": 2, "layer_types": ...},
    "window from the default layer": {"sliding_window": 6, "max_window_layers": ..., "layer_types": ...},
    "window null": {"sliding_window": None, "max_window_layers": 0, "layer_types": ...},
    "window of the default size": {"sliding_window": ..., "max_window_layers": 0, "layer_types": ...},
    "layer_types over max_window_layers": {"layer_types": [SLIDING, FULL], "max_window_layers": 1},
    "layer_types null": {"layer_types": None, "max_window_layers": 0},
    "layer_types, window not used": {"layer_types": [FULL, FULL], "use_sliding_window": False},
    "older name of a layer type": {"layer_types": [SLIDING, "attention"]},
}
EVERY_OTHER: dict[str, Edits] = {
    "layer_types absent": {"layer_types": ...},
    "layer_types null": {"layer_types": None},
    "window of the default size": {"sliding_window": ..., "layer_types": ...},
}
IGNORED_BIASES: dict[str, Edits] = {
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "biases null": {"attention_bias": None, "mlp_bias": None},
}
IGNORED_WINDOWS: dict[str, Edits] = {
    "sliding_window": {"sliding_window": 6},
    "use_sliding_window": {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 0},
    "layer_types": {"sliding_window": 6, "layer_types": [SLIDING, FULL]},
}
OPTIONAL_WINDOW: dict[str, Edits] = {
    "window": {"sliding_window": 6},
    "window null": {"sliding_window": None},
    "window absent": {"sliding_window": ...},
    "window not used": {"sliding_window": 6, "use_sliding_window": False},
}
GEMMA3_WINDOWS: dict[str, Edits] = {
    "pattern absent": {"layer_types": ..., "sliding_window_pattern": ...},
    "pattern of two": {"layer_types": ..., "sliding_window_pattern": 2},
    "pattern of three over its older name": {
        "layer_types": ...,
        "sliding_window_pattern": 3,
        "_sliding_window_pattern": 2,
    },
    "pattern null beside layer_types": {"sliding_window_pattern": None},
    "layer_types over the pattern": {
        "layer_types": [FULL, SLIDING, SLIDING, FULL],
        "sliding_window_pattern": 2,
    },
    "layer_types null": {"layer_types": None, "sliding_window_pattern": 3},
    "window of the default size": {"sliding_window": ...},
    "caps": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 2.0},
    "no sliding layer": {"layer_types": [FULL] * 4},
}
EPS: Edits = {"rms_norm_eps": 0.5, "norm_eps": 0.01}
STANDARD = {**WHERE, **METHODS}


def standard(pairs: int, *more: Mapping[str, Edits]) -> dict[str, Edits]:
    """The configurations of a family with one rotation of whole heads."""
    every = {**STANDARD, **longropes(pairs), "norm_eps and rms_norm_eps": EPS}
    return every | {name: edits for part in more for name, edits in part.items()}


FAMILIES: dict[str, dict[str, Edits]] = {
    "gemma2": standard(
        8,
        EVERY_OTHER,
        {
            "pattern": {"layer_types": ..., "sliding_window_pattern": 1},
            "hidden_act": {"hidden_act": "silu"},
            "caps null": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
            "caps absent": {"attn_logit_softcapping": ..., "final_logit_softcapping": ...},
            "mlp_bias null": {"mlp_bias": None},
            "bidirectional null": {"use_bidirectional_attention": None},
        },
    ),
    "gemma3_text": {**GEMMA3, **GEMMA3_WINDOWS, "norm_eps and rms_norm_eps": EPS},
    "gpt_oss": standard(
        8,
        EVERY_OTHER,
        {"use_sliding_window": {"use_sliding_window": False}, "hidden_act": {"hidden_act": "gelu"}},
    ),
    "lfm2": standard(
        4,
        IGNORED_WINDOWS | {"layer_types": {"sliding_window": 6}},
        {
            "layer_types over full_attn_idxs": {"full_attn_idxs": [0]},
            "full_attn_idxs": {"full_attn_idxs": [1], "layer_types": ...},
            "full_attn_idxs, layer_types null": {"full_attn_idxs": [1], "layer_types": None},
            "full_attn_idxs null": {"full_attn_idxs": None},
            "block_ff_dim": {"block_ff_dim": 48, "intermediate_size": 96},
            "tie_embedding": {"tie_embedding": True, "tie_word_embeddings": False},
        },
    ),
    "lfm2_moe": standard(
        4,
        {
            "full_attn_idxs": {"full_attn_idxs": [0]},
            "sliding_window": {"sliding_window": 6},
            "norm_topk_prob false": {"norm_topk_prob": False},
        },
    ),
    "llama": standard(
        6,
        IGNORED_WINDOWS,
        {"head_dim null": {"head_dim": None}, "head_dim absent": {"head_dim": ...}},
    ),
    "mistral": standard(
        6,
        OPTIONAL_WINDOW,
        IGNORED_BIASES,
        {
            "head_dim null": {"head_dim": None},
            "layer_types, none slides": {"sliding_window": 6, "layer_types": [FULL, FULL]},
            "layer_types, one slides": {"sliding_window": 6, "layer_types": [FULL, SLIDING]},
            "layer_types null": {"sliding_window": 6, "layer_types": None},
        },
    ),
    "mixtral": {
        # Without a head_dim, transformers fails where these methods multiply it.
        **{
            name: {**edits, "head_dim": 8}
            for name, edits in standard(4, OPTIONAL_WINDOW, IGNORED_BIASES).items()
        },
        "head_dim null": {"head_dim": None},
        "head_dim absent": {"head_dim": ...},
    },
    "phi3": {**PHI3, **OPTIONAL_WINDOW, **IGNORED_BIASES, "norm_eps and rms_norm_eps": EPS},
    "qwen2": standard(4, QWEN, IGNORED_BIASES),
    "qwen3": standard(8, QWEN, {"mlp_bias": {"mlp_bias": True}}),
    "qwen3_moe": standard(
        8,
        OPTIONAL_WINDOW,
        {
            "window used": {"sliding_window": 6, "use_sliding_window": True},
            "window used, max_window_layers": {
                "sliding_window": 6,
                "use_sliding_window": True,
                "max_window_layers": 3,
            },
            "window of the default size": {"sliding_window": ..., "use_sliding_window": True},
            "mlp_bias": {"mlp_bias": True},
        },
    ),
    "smollm3": standard(
        4,
        {
            "window": {"sliding_window": 6, "use_sliding_window": True, "layer_types": ...},
            "window not used": {"sliding_window": 6, "use_sliding_window": False, "layer_types": ...},
            "window null": {"sliding_window": None, "use_sliding_window": True, "layer_types": ...},
            "layer_types": {
                "sliding_window": 6,
                "use_sliding_window": True,
                "layer_types": [SLIDING, FULL, FULL],
            },
            "layer_types, window not used": {
                "sliding_window": 6,
                "use_sliding_window": False,
                "layer_types": [SLIDING, FULL, FULL],
            },
            "layer_types null": {"sliding_window": 6, "use_sliding_window": True, "layer_types": None},
            "no_rope_layers": {"no_rope_layers": [1, 1, 0]},
            "no_rope_layers null": {"no_rope_layers": None, "no_rope_layer_interval": 3},
            "no_rope_layers over the interval": {"no_rope_layers": [0, 1, 1], "no_rope_layer_interval": 2},
        },
    ),
}


REFUSED: dict[str, tuple[str, Edits, str]] = {
    "unknown rope_type": ("llama", old({"rope_type": "ntk", "factor": 2.0}), "rope_type"),
    "rope_type null": ("llama", new({**DEFAULT, "rope_type": None}), "rope_type"),
    "type of Phi-3": ("llama", new({**longrope(6, 16), "rope_type": "su"}), "rope_type"),
    "rope_scaling a list": ("qwen2", old(None, rope_scaling=[4.0]), "rope_scaling"),
    "theta null inside": ("qwen3", new({**DEFAULT, "rope_theta": None}), "rope_theta"),
    "theta null": ("qwen3", old(LINEAR, rope_theta=None), "rope_theta"),
    "linear without factor": ("mistral", old({"type": "linear"}), "factor"),
    "linear, factor null": ("mistral", old({"type": "linear", "factor": None}), "factor"),
    "dynamic without factor": ("llama", old({"type": "dynamic"}), "factor"),
    "yarn without factor": ("llama", old({"type": "yarn"}), "factor"),
    "yarn, original null": ("llama", yarn(original_max_position_embeddings=None), "original_max_position"),
    "yarn, original null at the top": (
        "llama",
        yarn() | {"original_max_position_embeddings": None},
        "original_max_position_embeddings",
    ),
    "llama3 without low_freq_factor": (
        "llama",
        old({"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}),
        "low_freq_factor",
    ),
    "longrope without short_factor": (
        "llama",
        old({"type": "longrope", "long_factor": [1.0]}),
        "short_factor",
    ),
    "longrope of too few pairs": ("llama", new(longrope(5, 16)), "short_factor"),
    "half a head, linear": ("llama", old(LINEAR, partial_rotary_factor=0.5), "partial_rotary_factor"),
    "half a head, linear, inside": (
        "gpt_oss",
        new({**LINEAR, "partial_rotary_factor": 0.5}),
        "partial_rotary_factor",
    ),
    "Phi-3, linear": ("phi3", old(LINEAR), "rope_type"),
    "Phi-3, dynamic": ("phi3", old(DYNAMIC), "rope_type"),
    "parameters of each layer type": ("gpt_oss", new({FULL: DEFAULT, SLIDING: DEFAULT}), FULL),
    "Gemma 3, scaling beside parameters of no layer type": (
        "gemma3_text",
        new(DEFAULT, rope_scaling=LINEAR),
        "rope_parameters",
    ),
    "pattern null": (
        "gemma3_text",
        {"layer_types": ..., "sliding_window_pattern": None},
        "sliding_window_pattern",
    ),
    "window null": ("gemma2", {"sliding_window": None}, "sliding_window"),
    "window null, gpt-oss": ("gpt_oss", {"sliding_window": None}, "sliding_window"),
    "window not used": (
        "qwen2",
        {"layer_types": [SLIDING, FULL], "use_sliding_window": False},
        "use_sliding_window",
    ),
    "max_window_layers null": ("qwen3", {"layer_types": ..., "max_window_layers": None}, "max_window_layers"),
    "unknown layer type": ("qwen3", {"layer_types": [FULL, "chunked_attention"]}, "layer_types"),
    "unknown layer type, mistral": ("mistral", {"layer_types": [FULL, "conv"]}, "layer_types"),
    "too few layer_types": ("smollm3", {"layer_types": [FULL]}, "layer_types"),
    "no layer_types": ("lfm2_moe", {"layer_types": ...}, "layer_types"),
    "sliding layer of LFM2": ("lfm2", {"layer_types": [SLIDING, FULL, "conv"]}, "layer_types"),
}
"""What transformers and the engine refuse, with the key that the engine names."""

EARLIER: dict[str, tuple[str, Edits, Edits]] = {
    "mlp_bias null": ("llama", {"mlp_bias": None}, {}),
    "attention_bias null": ("smollm3", {"attention_bias": None}, {}),
    "head_dim null": ("qwen2", {"head_dim": None}, {}),
    "max_window_layers null beside layer_types": ("qwen2", {"max_window_layers": None}, {}),
    "window null without sliding layers": (
        "gemma3_text",
        {"layer_types": [FULL] * 4, "sliding_window": None},
        {"layer_types": [FULL] * 4},
    ),
}
"""What transformers 5 refuses and its earlier versions read, and what it is equal to."""


GROWING: dict[str, tuple[str, Edits, int]] = {
    "crossing": ("llama", new({**DYNAMIC, "rope_theta": 300.0}, max_position_embeddings=16), 8),
    "beyond": ("qwen2", old({"type": "dynamic", "factor": 4.0}, max_position_embeddings=8), 12),
}
"""Dynamic rotations in a generation from a prompt of so many tokens: a family, and its edits."""


def write(base: Path, edits: Edits, folder: Path) -> Path:
    """A copy of the checkpoint ``base`` with these changes of its configuration."""
    shutil.copytree(base, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | edits
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder
