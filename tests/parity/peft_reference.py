"""Adapters that PEFT makes and saves, one per feature, and what they compute.

Used by ``generate.py``, which stores them, and by ``test_peft_live.py``. Needs torch, transformers and peft.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CASES: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 6, "target_modules": ALL},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": "all-linear"},
    "patterns": {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": ["q_proj", "v_proj", "mlp.down_proj"],
        "rank_pattern": {"v_proj": 5, r"layers\.1\.(self_attn|mlp)\.(q|down)_proj": 3},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 7, "down_proj": 1},
    },
    "regex": {"r": 3, "lora_alpha": 3, "target_modules": r".*\.self_attn\.(k|o)_proj"},
    "dora": {"r": 3, "lora_alpha": 6, "use_dora": True, "target_modules": ["q_proj", "up_proj"]},
    "last_layer": {"r": 3, "lora_alpha": 9, "target_modules": ["up_proj"], "layers_to_transform": [1]},
    "adalora": {
        "init_r": 4,
        "target_r": 2,
        "lora_alpha": 30,
        "total_step": 100,
        "target_modules": ["q_proj", "down_proj"],
    },
}


def make(model: torch.nn.Module, settings: dict[str, Any], seed: int, std: float = 0.2) -> PeftModel:
    """``model`` with an adapter whose matrices are random."""
    config = AdaLoraConfig if "init_r" in settings else LoraConfig
    adapted = get_peft_model(model, config(task_type="CAUSAL_LM", **settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(adapted.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if any(f".lora_{letter}." in name for letter in "ABE"):
                parameter.copy_(std * noise)
            elif ".lora_magnitude_vector." in name:
                parameter.mul_(1 + std * noise)
        if "init_r" in settings:
            take_ranks_away(adapted)
    return adapted


def take_ranks_away(adapted: PeftModel) -> None:
    """Leave the first layer no rank, the next one, and so on, as training with AdaLoRA does."""
    left: dict[str, list[bool]] = {}
    for name, parameter in sorted(adapted.base_model.model.named_parameters()):
        if ".lora_E." in name:
            ranks = len(parameter)
            left[name] = [rank < len(left) % (ranks + 1) for rank in range(ranks)]
            parameter[~torch.tensor(left[name])] = 0
    adapted.peft_config["default"].rank_pattern = left


def save(adapted: PeftModel, folder: Path) -> Path:
    """The adapter as PEFT saves it, without the model card."""
    adapted.peft_config["default"].base_model_name_or_path = "base"
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return folder
