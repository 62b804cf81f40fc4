"""What transformers and PEFT compute, on small random models.

Used by ``generate.py``, which stores the values, and by ``test_live.py``, which compares on the spot.
Needs torch, transformers and peft; nothing here imports the toolkit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()

PAD, EOS, UNK = 0, 1, 2
FIRST_WORD = 3
"""Ids below are special; id ``n`` from here on is the word ``tn``."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
RANK, ALPHA = 8, 16.0

PROMPT, CONTINUATION = 8, 64
MIN_MARGIN = 1e-3
"""A top logit that leads by less could be overtaken by rounding."""
MIN_DISTINCT = 12
"""A continuation that repeats one word would hide errors of position."""


@dataclass(frozen=True)
class Case:
    """One checkpoint: what is special about it, and how it is stored."""

    settings: dict[str, Any]
    family: str = "llama"
    dtype: torch.dtype = torch.float32
    trains: bool = False
    """Whether the losses of a training of all parameters are stored too."""
    words: int = 256
    """Size of the vocabulary."""
    max_shard_size: str = "1GB"
    old_config: bool = False
    """Write ``rope_theta``, ``rope_scaling`` and ``torch_dtype`` as transformers 4 did."""


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # With 16 dimensions per head this puts frequencies in all three bands.
    "original_max_position_embeddings": 64,
}

SCALED = {
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "rope_parameters": {**LLAMA3_ROPE, "rope_theta": 10000.0},
}

CASES: dict[str, Case] = {
    "llama_gqa": Case({}),
    "llama_tied": Case(
        {
            "hidden_size": 32,
            "num_key_value_heads": 4,
            "num_hidden_layers": 3,
            "tie_word_embeddings": True,
            "rope_theta": 5000.0,
        }
    ),
    "llama_bias": Case(
        {"hidden_size": 32, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}
    ),
    "llama_rope": Case(SCALED),
    "llama_head_dim": Case({"head_dim": 16, "intermediate_size": 64, "rms_norm_eps": 1e-6}),
    "mistral_window": Case({"sliding_window": 8}, family="mistral"),
    "llama_bf16_sharded": Case({"num_hidden_layers": 3}, dtype=torch.bfloat16, max_shard_size="40KB"),
    "llama_fp16_old": Case(SCALED, dtype=torch.float16, old_config=True),
}


def small(family: str, **settings: Any) -> Case:
    """A case of few and narrow numbers, so that every family can have some."""
    sizes = {"hidden_size": 32, "intermediate_size": 48}
    return Case({**sizes, **settings}, family=family, dtype=torch.bfloat16, words=96, trains=True)


def longrope(original: int) -> dict[str, Any]:
    """Settings of a LongRoPE of 3 pairs whose short context ends at ``original``."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.1, 1.3],
        "long_factor": [1.0, 2.0, 8.0],
    }
    return {"original_max_position_embeddings": original, "rope_parameters": rope}


WINDOW = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
GEMMA = {
    "head_dim": 16,
    "num_hidden_layers": 4,
    "sliding_window": 6,
    "query_pre_attn_scalar": 20,
    "tie_word_embeddings": True,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MIXED = ["conv", "full_attention", "conv"]

CASES |= {
    "qwen2": small("qwen2", **WINDOW),
    "qwen3": small("qwen3", head_dim=16, **WINDOW),
    "smollm3": small("smollm3", num_hidden_layers=3, no_rope_layer_interval=2),
    "phi3": small("phi3"),
    "phi3_short": small("phi3", **longrope(128)),
    # The prompt is short, the end of the continuation long.
    "phi3_crossing": small("phi3", **longrope(32)),
    "phi3_long": small("phi3", **longrope(6)),
    # Caps as low as this one change every score.
    "gemma2": small("gemma2", attn_logit_softcapping=1.0, final_logit_softcapping=1.0, **GEMMA),
    "gemma3_text": small(
        "gemma3_text",
        sliding_window_pattern=2,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        },
        **GEMMA,
    ),
    "gpt_oss": small("gpt_oss", head_dim=16, sliding_window=6, num_local_experts=4, num_experts_per_tok=2),
    "mixtral": small("mixtral", num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": small(
        "qwen3_moe", head_dim=16, num_hidden_layers=3, mlp_only_layers=[1], norm_topk_prob=True, **EXPERTS
    ),
    "qwen3_moe_unnormalised": small("qwen3_moe", head_dim=16, norm_topk_prob=False, **EXPERTS),
    "lfm2": small(
        "lfm2", num_hidden_layers=3, layer_types=MIXED, block_multiple_of=16, tie_word_embeddings=True
    ),
    "lfm2_moe": small(
        "lfm2_moe", num_hidden_layers=3, layer_types=MIXED, num_dense_layers=1, conv_bias=True, **EXPERTS
    ),
}


def build(case: Case, seed: int, **overrides: Any) -> torch.nn.Module:
    """A model whose weights are wide enough that its logits are far from uniform."""
    settings = {
        "vocab_size": case.words,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "attn_implementation": "eager",
        **case.settings,
        **overrides,
    }
    if case.family.startswith("lfm2"):
        settings["norm_eps"] = settings.pop("rms_norm_eps")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.family, **settings))
    gemma = case.family.startswith("gemma")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Buffers that are stored, such as the bias of a choice of experts, count as parameters.
        for name, parameter in sorted(model.state_dict(keep_vars=True).items()):
            if name == "lm_head.weight" and model.config.tie_word_embeddings:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                # Gemma stores the distance from one.
                parameter.copy_((0 if gemma else 1) + 0.2 * noise)
            elif gemma and "embed" in name:
                # It multiplies embeddings by the root of their size: wide ones would only repeat themselves.
                parameter.copy_(0.05 * noise)
            else:
                parameter.copy_(0.3 * noise)
    return model.eval()


def save(model: torch.nn.Module, case: Case, folder: Path) -> None:
    """Write a checkpoint folder as ``save_pretrained`` does, with the word tokenizer."""
    model = model.to(case.dtype)
    model.save_pretrained(folder, safe_serialization=True, max_shard_size=case.max_shard_size)
    if case.old_config:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        config["torch_dtype"] = config.pop("dtype")
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    word_tokenizer(model.config.vocab_size).save_pretrained(folder)


def load(folder: Path) -> torch.nn.Module:
    """The stored checkpoint in float32."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Text and ids name each other exactly: id 17 is the word ``t17``."""
    special = {"<pad>": PAD, "<eos>": EOS, "<unk>": UNK}
    vocab = special | {f"t{i}": i for i in range(FIRST_WORD, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def words(ids: Iterable[int]) -> str:
    """The text that the word tokenizer turns into ``ids``."""
    return " ".join(f"t{i}" for i in ids)


def random_ids(shape: tuple[int, ...], vocab_size: int, seed: int) -> torch.Tensor:
    """Ordinary words only, int64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST_WORD, vocab_size, shape, generator=generator)


def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """``ids`` [batch, time] → float32 [batch, time, vocab]."""
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def greedy(model: torch.nn.Module, prompt: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` most likely tokens after ``prompt`` [time], and how far each led the second, in logits."""
    ids, margins = prompt[None], []
    for _ in range(count):
        top = logits(model, ids)[0, -1].topk(2)
        margins.append(top.values[0] - top.values[1])
        ids = torch.cat([ids, top.indices[None, :1]], dim=1)
    cached = model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt)[None],
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    assert torch.equal(cached, ids), "generate() disagrees with the plain loop"
    return ids[0, len(prompt) :], torch.stack(margins)


class Checkpoint(NamedTuple):
    """A stored model, reloaded in float32, with an unambiguous greedy continuation."""

    model: torch.nn.Module
    seed: int
    prompt: torch.Tensor
    continuation: torch.Tensor
    margins: torch.Tensor


def clear_checkpoint(case: Case, folder: Path, first_seed: int = 0) -> Checkpoint:
    """Write the first checkpoint, by seed, whose greedy continuation has no near ties."""
    for seed in range(first_seed, first_seed + 1000):
        shutil.rmtree(folder, ignore_errors=True)
        save(build(case, seed), case, folder)
        model = load(folder)
        prompt = random_ids((PROMPT,), model.config.vocab_size, seed + 1)
        continuation, margins = greedy(model, prompt, CONTINUATION)
        clear = margins.min() > MIN_MARGIN and continuation.min() >= FIRST_WORD
        if clear and len(continuation.unique()) >= MIN_DISTINCT:
            return Checkpoint(model, seed, prompt, continuation, margins)
    message = f"no seed gives {folder.name} a clear continuation"
    raise RuntimeError(message)


def rows(count: int, time: int, vocab_size: int, seed: int) -> torch.Tensor:
    """Training rows [count, time + 1] as the toolkit reads them: ``time`` words, then EOS."""
    ids = random_ids((count, time), vocab_size, seed)
    return torch.cat([ids, torch.full((count, 1), EOS)], dim=1)


def token_loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy per target token of rows without padding."""
    scores = model(input_ids=ids[:, :-1], use_cache=False).logits
    return cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())


def fit(model: torch.nn.Module, ids: torch.Tensor, steps: int) -> torch.Tensor:
    """Losses of ``steps`` AdamW steps on the one batch ``ids``, each before its update."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, **ADAM)
    losses = []
    for _ in range(steps):
        loss = token_loss(model, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def with_lora(model: torch.nn.Module, seed: int, b_std: float) -> torch.nn.Module:
    """PEFT's LoRA on every linear layer of the blocks; B is zero when ``b_std`` is."""
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_A" in name:
                bound = parameter.shape[1] ** -0.5
                parameter.copy_(bound * (2 * torch.rand(parameter.shape, generator=generator) - 1))
            elif "lora_B" in name:
                parameter.copy_(b_std * torch.randn(parameter.shape, generator=generator))
    return model


def adapter(model: torch.nn.Module, gradients: bool = False) -> dict[str, torch.Tensor]:
    """The LoRA matrices (or their gradients) under mlx-lm's names and in its orientation."""
    tensors = {}
    for name, parameter in model.named_parameters():
        path, found, _ = name.partition(".lora_")
        if found:
            leaf = "lora_a" if ".lora_A." in name else "lora_b"
            value = parameter.grad if gradients else parameter.detach()
            tensors[f"{path.removeprefix('base_model.model.')}.{leaf}"] = value.T.contiguous().clone()
    return tensors


def set_adapter(model: torch.nn.Module, values: dict[str, Any]) -> None:
    """Fill PEFT's matrices with arrays under mlx-lm's names."""
    for name, parameter in model.named_parameters():
        path, found, _ = name.partition(".lora_")
        if found:
            leaf = "lora_a" if ".lora_A." in name else "lora_b"
            value = values[f"{path.removeprefix('base_model.model.')}.{leaf}"]
            with torch.no_grad():
                parameter.copy_(torch.tensor(value).T)


def adapter_config(num_layers: int) -> dict[str, Any]:
    """What mlx-lm's reader needs to attach an adapter of this file."""
    return {
        "fine_tune_type": "lora",
        "lora_parameters": {"dropout": 0.0, "rank": RANK, "scale": ALPHA / RANK},
        "num_layers": num_layers,
    }
