"""Virtual tokens that PEFT learns and saves, one case per kind, and what they compute.

Used by ``generate.py``, which stores them. Needs torch, transformers and peft.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import (
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch.nn.functional import cross_entropy

from parity import peft_reference
from parity import reference as ref

Store = Callable[[Path, dict[str, torch.Tensor]], None]

TOKENS = 5
ROWS, TIME, STEPS, CONTINUATION = 4, 24, 10, 24
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "prompt_tuning": (PromptTuningConfig, {}),
    "p_tuning": (PromptEncoderConfig, {"encoder_hidden_size": 20}),
    "prefix_tuning": (PrefixTuningConfig, {}),
    "prefix_projection": (PrefixTuningConfig, {"prefix_projection": True, "encoder_hidden_size": 20}),
}


def make(model: torch.nn.Module, name: str, seed: int) -> PeftModel:
    """``model`` behind random virtual tokens."""
    kind, settings = CASES[name]
    torch.manual_seed(seed)
    return get_peft_model(model, kind(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS, **settings)).eval()


def logits(model: PeftModel, ids: torch.Tensor) -> torch.Tensor:
    """``ids`` [batch, time] → float32 [batch, time, vocab], without those of virtual tokens."""
    with torch.no_grad():
        return model(input_ids=ids).logits[:, -ids.shape[1] :].float()


def greedy(model: PeftModel, prompt: torch.Tensor, count: int) -> torch.Tensor:
    """``count`` most likely tokens after ``prompt`` [time], none of them a near tie."""
    ids = prompt[None]
    for _ in range(count):
        top = logits(model, ids)[0, -1].topk(2)
        assert top.values[0] - top.values[1] > ref.MIN_MARGIN, "take another seed"
        assert top.indices[0] >= ref.FIRST_WORD, "take another seed"
        ids = torch.cat([ids, top.indices[None, :1]], dim=1)
    return ids[0, len(prompt) :]


def fit(model: PeftModel, ids: torch.Tensor, steps: int) -> torch.Tensor:
    """Losses of ``steps`` AdamW steps on the one batch ``ids``, each before its update."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, **{**ref.ADAM, "lr": 1e-2})
    losses = []
    for _ in range(steps):
        scores = model(input_ids=ids[:, :-1]).logits[:, -ids.shape[1] + 1 :]
        loss = cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def encoder(model: PeftModel) -> dict[str, torch.Tensor]:
    """What is learned, under our names."""
    own = model.prompt_encoder["default"]
    tensors = {"prompt.embedding": own.embedding.weight.detach().clone()}
    layers = getattr(own, "mlp_head", getattr(own, "transform", []))
    for i, layer in enumerate(layer for layer in layers if isinstance(layer, torch.nn.Linear)):
        tensors[f"prompt.encoder.{i}.weight"] = layer.weight.detach().clone()
        tensors[f"prompt.encoder.{i}.bias"] = layer.bias.detach().clone()
    return tensors


def store_all(store: Store, base: Path, folder: Path) -> None:
    """Everything that ``test_peft_prompts.py`` and the engine's own tests compare with."""
    vocab = ref.load(base).config.vocab_size
    ids = ref.rows(ROWS, TIME, vocab, seed=21)
    prompt = ref.random_ids((8,), vocab, seed=22)
    store(folder / "rows.safetensors", {"ids": ids.int(), "prompt": prompt.int()})
    for name in CASES:
        for seed in range(100):
            model = make(ref.load(base), name, seed)
            try:
                continuation = greedy(model, prompt, CONTINUATION)
            except AssertionError:
                continue
            break
        peft_reference.save(model, folder / name)
        expected = {"logits": logits(model, ids[:2, :12]), "continuation": continuation.int()}
        expected |= encoder(model)
        expected["losses"] = fit(model, ids, STEPS)
        store(folder / name / "expected.safetensors", expected)
        print(f"{name}: {expected['losses'][0]:.4f} -> {expected['losses'][-1]:.4f}")  # noqa: T201
