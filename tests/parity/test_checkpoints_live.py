"""Checkpoints as transformers itself stores them: our logits, and what we save from them."""

# ruff: noqa: PLR0917, because pytest passes fixtures by name
from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from efficientai_toolkit import _core
from support.engine import largest, logits, stored

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]

LOGITS = 1e-4
STACKED = ["gpt_oss", "lfm2_moe", "mixtral", "qwen3_moe"]
BASES = ["gemma2", "gemma3_text", "lfm2", "llama_tied"]

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA = {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 20}
LFM2 = {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16}
WRAPPERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("gemma3_text", GEMMA, {"model_type": "siglip_vision_model"}),
    "idefics3": ("llama", {}, {}),
    "internvl": (
        "qwen3",
        {"head_dim": 16},
        {"model_type": "internvl_vision", "image_size": [28, 28], "patch_size": [14, 14]},
    ),
    "lfm2_vl": ("lfm2", LFM2, {"model_type": "siglip2_vision_model", "num_patches": 4}),
    "llava": ("llama", {}, {"model_type": "clip_vision_model"}),
    "llava_next": ("mistral", {"sliding_window": None}, {"model_type": "clip_vision_model"}),
    "llava_onevision": ("qwen2", {}, {"model_type": "siglip_vision_model"}),
    "mistral3": ("mistral", {"head_dim": 16, "sliding_window": None}, {"model_type": "pixtral"}),
    "smolvlm": ("llama", {}, {}),
    "vipllava": ("llama", {}, {"model_type": "clip_vision_model"}),
}
"""The family of the text tower with its settings, and those of the vision tower."""


def compare(ref: ModuleType, name: str, theirs: Any, folder: Path, seed: int, figure: Check) -> None:
    """Our logits of ``folder`` with those of ``theirs``, and transformers' of what we save from it."""
    ids = ref.random_ids((2, 24), theirs.config.get_text_config().vocab_size, seed)
    want = ref.logits(theirs, ids).numpy()
    assert want.std() > 0.1
    figure(f"live {name} logits", largest(logits(folder, ids.numpy()), want), LOGITS)
    _core.models.convert(str(folder), str(folder / "saved"), "float32")
    saved, report = ref.AutoModelForCausalLM.from_pretrained(
        folder / "saved", dtype=ref.torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    assert type(saved).__name__ == saved.config.architectures[0]
    figure(f"live {name}, saved by us", largest(ref.logits(saved.eval(), ids).numpy(), want), LOGITS)
    figure(f"live {name}, saved and read by us", largest(logits(folder / "saved", ids.numpy()), want), LOGITS)


def store(ref: ModuleType, model: Any, folder: Path, **settings: Any) -> None:
    model.save_pretrained(folder, **settings)
    ref.word_tokenizer(model.config.get_text_config().vocab_size).save_pretrained(folder)


def build(ref: ModuleType, case: str, seed: int) -> Any:
    return ref.build(ref.CASES[case], seed)


@pytest.mark.parametrize("family", ["llama_tied", "gemma2", "lfm2"])
def test_a_head_of_its_own(ref: ModuleType, family: str, seed: int, tmp_path: Path, figure: Check) -> None:
    model = build(ref, family, seed)
    table = model.get_input_embeddings().weight
    noise = ref.torch.randn(table.shape, generator=ref.torch.Generator().manual_seed(seed + 1))
    model.lm_head.weight = ref.torch.nn.Parameter(0.3 * noise)
    store(ref, model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config.get("tie_word_embeddings", True)
    assert "lm_head.weight" in stored(tmp_path / "model")
    theirs = ref.load(tmp_path / "model")
    assert theirs.lm_head.weight is not theirs.get_input_embeddings().weight
    compare(ref, f"{family} with a head beside tied embeddings", theirs, tmp_path / "model", seed, figure)


@pytest.mark.parametrize("family", STACKED)
def test_stacked_experts(ref: ModuleType, family: str, seed: int, tmp_path: Path, figure: Check) -> None:
    model = build(ref, family, seed)
    store(ref, model, tmp_path / "model", save_original_format=False)
    assert any(name.endswith(".experts.gate_up_proj") for name in stored(tmp_path / "model"))
    compare(ref, f"{family} with stacked experts", model, tmp_path / "model", seed, figure)


@pytest.mark.parametrize("family", BASES)
def test_a_base_model(ref: ModuleType, family: str, seed: int, tmp_path: Path, figure: Check) -> None:
    model = build(ref, family, seed)
    store(ref, model.model, tmp_path / "model")
    assert not any(name.startswith("model.") for name in stored(tmp_path / "model"))
    compare(ref, f"{family} without head", model, tmp_path / "model", seed, figure)


@pytest.mark.parametrize("stored_as", ["original", "own", "base"])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_text_tower(
    ref: ModuleType, kind: str, stored_as: str, seed: int, tmp_path: Path, figure: Check
) -> None:
    from transformers import AutoModelForImageTextToText

    family, text, vision = WRAPPERS[kind]
    config = ref.AutoConfig.for_model(
        kind,
        text_config={"model_type": family, **TEXT, **text},
        vision_config={**VISION, **vision},
        **({"mm_tokens_per_image": 4} if kind == "gemma3" else {}),
        **({"tie_word_embeddings": True} if stored_as == "base" else {}),
    )
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    generator = ref.torch.Generator().manual_seed(seed)
    with ref.torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "norm" not in name:
                parameter.copy_(0.2 * ref.torch.randn(parameter.shape, generator=generator))
    if stored_as == "base":
        store(ref, model.model, tmp_path / "model")
    else:
        store(ref, model, tmp_path / "model", save_original_format=stored_as == "original")
    names = stored(tmp_path / "model")
    assert any("vision" in name for name in names)
    compare(ref, f"text tower of {kind}, {stored_as} names", model, tmp_path / "model", seed, figure)
