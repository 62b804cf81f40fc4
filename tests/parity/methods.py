"""What PEFT computes for the ways to adapt a model beyond plain LoRA.

Used by ``generate.py``, which stores the values. Needs torch, transformers and peft.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from parity import reference as ref

Store = Callable[[Path, dict[str, torch.Tensor]], None]

ROWS, TIME, STEPS = 4, 24, 20
LEAVES = {"lora_A": "lora_a", "lora_B": "lora_b", "lora_E": "lora_e", "lora_magnitude_vector": "m"}


def adapted(base: Path, **settings: Any) -> torch.nn.Module:
    """The checkpoint with PEFT's adapters on every linear layer of the blocks."""
    config = LoraConfig(
        r=ref.RANK,
        lora_alpha=ref.ALPHA,
        target_modules=list(ref.PROJECTIONS),
        task_type="CAUSAL_LM",
        **settings,
    )
    torch.manual_seed(11)
    return get_peft_model(ref.load(base), config)


def matrices(model: torch.nn.Module, gradients: bool = False) -> dict[str, torch.Tensor]:
    """Adapter parameters (or their gradients) under our names and in our orientation."""
    tensors = {}
    for name, parameter in model.named_parameters():
        path, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
        leaf = next((ours for theirs, ours in LEAVES.items() if f"lora_{rest}".startswith(theirs)), None)
        if leaf:
            value = parameter.grad if gradients else parameter.detach()
            tensors[f"{path}.{leaf}"] = (value.T if value.ndim == 2 else value).contiguous().clone()
    return tensors


def store_adapter(store: Store, folder: Path, model: torch.nn.Module, kind: str) -> None:
    """A folder as mlx-lm writes it."""
    store(folder / "adapters.safetensors", matrices(model))
    config = ref.adapter_config(model.config.num_hidden_layers) | {"fine_tune_type": kind}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=4) + "\n")


def store_dora(store: Store, base: Path, folder: Path) -> None:
    """Logits, loss and gradients where directions and magnitudes have already moved, and a loss curve."""
    model = adapted(base, use_dora=True)
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            elif "magnitude" in name:
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    store_adapter(store, folder / "initial", model, "dora")
    ids = ref.rows(ROWS, TIME, model.config.vocab_size, seed=13)
    expected = {"ids": ids.int(), "logits": ref.logits(model, ids[:2, :-1])}
    loss = ref.token_loss(model, ids)
    loss.backward()
    expected["loss"] = loss.detach()
    expected |= {f"gradient.{name}": value for name, value in matrices(model, gradients=True).items()}
    expected["losses"] = ref.fit(model, ids, STEPS)
    store(folder / "expected.safetensors", expected)
    print(f"dora: {expected['losses'][0]:.4f} -> {expected['losses'][-1]:.4f}")  # noqa: T201


def store_all(store: Store, base: Path, folder: Path) -> None:
    """Everything that ``test_methods.py`` compares with."""
    store_dora(store, base, folder / "dora")
