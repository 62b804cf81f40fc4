"""What PEFT computes for the ways to adapt a model beyond plain LoRA.

Used by ``generate.py``, which stores the values. Needs torch, transformers and peft.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.adalora.layer import RankAllocator

from parity import peft_reference
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


def losses(model: torch.nn.Module, ids: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Losses of the one batch ``ids``, each before its update."""
    found = []
    for _ in range(STEPS):
        loss = ref.token_loss(model, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)


def store_curves(store: Store, base: Path, folder: Path) -> None:
    """Loss curves of LoRA+ from the adapter ``lora/initial``, of rsLoRA from there, and of PiSSA."""
    ids = ref.rows(ROWS, TIME, 256, seed=13)
    expected = {"ids": ids.int()}
    for name in ("loraplus", "rslora"):
        model = adapted(base, use_rslora=name == "rslora")
        initial = ref.with_lora(ref.load(base), seed=3, b_std=0.0)
        values = {key: value.numpy() for key, value in ref.adapter(initial).items()}
        ref.set_adapter(model, values)
        if name == "loraplus":
            optimizer = create_loraplus_optimizer(
                model,
                torch.optim.AdamW,
                lr=ref.ADAM["lr"],
                loraplus_lr_ratio=8.0,
                loraplus_weight_decay=ref.ADAM["weight_decay"],
                betas=ref.ADAM["betas"],
                eps=ref.ADAM["eps"],
            )
            expected[name] = losses(model, ids, optimizer)
        else:
            expected[name] = ref.fit(model, ids, STEPS)
            expected["rslora_scale"] = torch.tensor(ref.ALPHA / ref.RANK**0.5)
    model = adapted(base, init_lora_weights="pissa")
    expected["pissa"] = ref.fit(model, ids, STEPS)
    expected["pissa_logits"] = ref.logits(model, ids[:2, :-1])
    store(folder / "expected.safetensors", expected)
    for name in ("loraplus", "rslora", "pissa"):
        print(f"{name}: {expected[name][0]:.4f} -> {expected[name][-1]:.4f}")  # noqa: T201


class Triplets(torch.nn.Module):  # type: ignore[misc]
    """Parameters as AdaLoRA's allocator looks for them."""

    def __init__(self, ranks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        shapes = {"lora_A": (ranks, inputs), "lora_B": (outputs, ranks), "lora_E": (ranks, 1)}
        for name, shape in shapes.items():
            value = torch.nn.Parameter(torch.zeros(shape))
            setattr(self, name, torch.nn.ParameterDict({"default": value}))


def store_allocator(path: Path) -> None:
    """What PEFT's allocator decides on two small layers, from random values and gradients."""
    total, rank, settings = 9, 2, {"tinit": 2, "tfinal": 2, "deltaT": 2, "beta1": 0.8, "beta2": 0.9}
    config = AdaLoraConfig(init_r=4, target_r=rank, total_step=total, **settings)
    layers = torch.nn.ModuleDict({"x": Triplets(4, 5, 3), "y": Triplets(4, 3, 6)})
    allocator = RankAllocator(layers, config, "default")
    generator = torch.Generator().manual_seed(14)

    def lists(gradients: bool = False) -> dict[str, dict[str, list[list[float]]]]:
        def read(parameter: torch.nn.Parameter) -> list[list[float]]:
            numbers: list[list[float]] = (parameter.grad if gradients else parameter.detach()).tolist()
            return numbers

        return {
            path: {leaf: read(getattr(layer, f"lora_{leaf}")["default"]) for leaf in "ABE"}
            for path, layer in layers.items()
        }

    steps = []
    end = total - config.tfinal
    for step in range(1, end + 1):
        with torch.no_grad():
            for parameter in layers.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        record: dict[str, Any] = {"parameters": lists(), "grads": lists(gradients=True)}
        budget, pattern = allocator.update_and_allocate(layers, step, force_mask=step == end)
        record["budget"] = budget
        masks = {name.split(".")[0]: [float(kept) for kept in mask] for name, mask in (pattern or {}).items()}
        record["masks"] = masks
        record["scores"] = {} if step == end else {path: scores(allocator, path) for path in layers}
        steps.append(record)
    ours = {
        "method": "adalora",
        "lora_rank": rank,
        "adalora_init_rank": 4,
        "adalora_tinit": config.tinit,
        "adalora_tfinal": config.tfinal,
        "adalora_delta_t": config.deltaT,
        "adalora_beta1": config.beta1,
        "adalora_beta2": config.beta2,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"total_step": total, "config": ours, "steps": steps}) + "\n")


def scores(allocator: RankAllocator, path: str) -> list[float]:
    """Importance of each rank of one layer."""
    a, b, e = (allocator._element_score(f"{path}.lora_{leaf}.default") for leaf in "ABE")
    combined: list[float] = allocator._combine_ipt(e, torch.stack([a.mean(1), b.mean(0)], dim=1)).tolist()
    return combined


RANKS = {"down_proj": 1, r"layers\.1\.mlp\..*_proj": 5, "model.layers.0.self_attn.o_proj": 7, "q_proj": 2}
"""The first that fits counts, the others have the usual rank. In the order in which PEFT saves them."""


def store_ranks(store: Store, base: Path, folder: Path) -> None:
    """An adapter whose ranks differ by layer: scales, logits, and a loss curve from there."""
    model = adapted(base, rank_pattern=RANKS)
    generator = torch.Generator().manual_seed(15)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    peft_reference.save(model, folder / "initial")
    ids = ref.rows(ROWS, TIME, model.config.vocab_size, seed=13)
    expected = {"ids": ids.int(), "logits": ref.logits(model, ids[:2, :-1])}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            path = name.removeprefix("base_model.model.")
            expected[f"scale.{path}"] = torch.tensor(module.scaling["default"])
    expected["losses"] = ref.fit(model, ids, STEPS)
    store(folder / "expected.safetensors", expected)
    print(f"ranks: {expected['losses'][0]:.4f} -> {expected['losses'][-1]:.4f}")  # noqa: T201


def store_all(store: Store, base: Path, folder: Path) -> None:
    """Everything that ``test_methods.py`` and the engine's own tests compare with."""
    store_allocator(folder / "adalora" / "allocator.json")
    store_curves(store, base, folder / "curves")
    store_ranks(store, base, folder / "ranks")
    store_dora(store, base, folder / "dora")
