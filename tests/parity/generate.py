"""Make the parity fixtures: small random checkpoints and what transformers and PEFT compute on them.

Run it when a peer's major version changes or a case is added, and commit what changed::

    uv run --group parity python tests/parity/generate.py
    uv run --group parity python tests/parity/generate.py qwen3 gemma2  # these cases alone
    uv run --group parity python tests/parity/generate.py peft          # PEFT's adapters alone
    uv run --group parity python tests/parity/generate.py methods       # what methods.py computes
    uv run --group parity python tests/parity/generate.py preferences   # what TRL computes
    uv run --group parity python tests/parity/generate.py prompts       # what prompts.py computes
    uv run --group parity python tests/parity/generate.py configurations  # configurations whose keys compete

The same versions on the same machine write the same bytes.
"""

# ruff: noqa: T201
from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

# Run as a script, this file sees only its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from parity import chat_reference, configuration_reference, methods, peft_reference, prompts
from parity import reference as ref

FIXTURES = Path(__file__).parent / "fixtures"
MAJOR_VERSIONS = {"torch": 2, "transformers": 5, "peft": 0, "tokenizers": 0}
BUDGET_BYTES = 5_000_000

BATCH, ROWS, TIME = 2, 4, 24
LORA_STEPS, FULL_STEPS = 20, 10


def versions() -> dict[str, str]:
    """Installed versions of the peers; exits where a major version is not the declared one."""
    found = {name: version(name) for name in MAJOR_VERSIONS}
    for name, major in MAJOR_VERSIONS.items():
        if int(found[name].split(".")[0]) != major:
            sys.exit(f"{name} {found[name]}: these fixtures are made with {name} {major}.x")
    return found


def store(path: Path, tensors: dict[str, torch.Tensor], seed: int | None = None) -> None:
    """Write tensors; one metadata key only, because several would be written in random order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made_with = json.dumps({**versions(), "seed": seed})
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"made_with": made_with})


def store_model(name: str, case: ref.Case) -> None:
    """Write one checkpoint and its expected values."""
    made = ref.clear_checkpoint(case, FIXTURES / "models" / name)
    ids = ref.random_ids((BATCH, TIME), made.model.config.vocab_size, made.seed + 2)
    expected = {
        "ids": ids.int(),
        "logits": ref.logits(made.model, ids),
        "prompt": made.prompt.int(),
        "continuation": made.continuation.int(),
        "margins": made.margins,
    }
    if case.trains:
        # A model of its own: the others are not to change.
        rows = ref.rows(ROWS, TIME, made.model.config.vocab_size, made.seed + 3)
        expected |= {
            "rows": rows.int(),
            "losses": ref.fit(ref.load(FIXTURES / "models" / name), rows, FULL_STEPS),
        }
    store(FIXTURES / "expected" / f"{name}.safetensors", expected, made.seed)
    std, margin = expected["logits"].std().item(), made.margins.min().item()
    print(f"{name}: seed {made.seed}, logits std {std:.2f}, smallest margin {margin:.4f}")


def store_adapter(folder: Path, model: torch.nn.Module) -> None:
    """An adapter folder as mlx-lm writes it."""
    store(folder / "adapters.safetensors", ref.adapter(model))
    config = ref.adapter_config(model.config.num_hidden_layers)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=4) + "\n")


def store_lora(base: Path) -> None:
    """Gradients at an adapter that changes the model, and a loss curve from one that does not."""
    folder = FIXTURES / "lora"
    model = ref.with_lora(ref.load(base), seed=1, b_std=0.05)
    ids = ref.rows(ROWS, TIME, model.config.vocab_size, seed=2)
    expected = {"ids": ids.int(), "gradient_logits": ref.logits(model, ids[:BATCH, :-1])}
    loss = ref.token_loss(model, ids)
    loss.backward()
    expected["gradient_loss"] = loss.detach()
    expected |= {f"gradient.{k}": v for k, v in ref.adapter(model, gradients=True).items()}
    store_adapter(folder / "gradient", model)

    model = ref.with_lora(ref.load(base), seed=3, b_std=0.0)
    store_adapter(folder / "initial", model)
    expected["losses"] = ref.fit(model, ids, LORA_STEPS)
    store_adapter(folder / "final", model)
    store(folder / "expected.safetensors", expected)
    print(f"lora: {expected['losses'][0]:.4f} -> {expected['losses'][-1]:.4f}")


def store_full(base: Path) -> None:
    """A loss curve with every parameter trained."""
    model = ref.load(base)
    ids = ref.rows(ROWS, TIME, model.config.vocab_size, seed=4)
    losses = ref.fit(model, ids, FULL_STEPS)
    store(FIXTURES / "full" / "expected.safetensors", {"ids": ids.int(), "losses": losses})
    print(f"full: {losses[0]:.4f} -> {losses[-1]:.4f}")


def store_peft(base: Path) -> None:
    """Adapters as PEFT saves them, and their logits."""
    folder = FIXTURES / "peft"
    shutil.rmtree(folder, ignore_errors=True)
    ids = ref.random_ids((1, 12), ref.load(base).config.vocab_size, seed=5)
    expected = {"ids": ids.int()}
    for seed, (name, settings) in enumerate(peft_reference.CASES.items()):
        adapted = peft_reference.make(ref.load(base), settings, seed)
        peft_reference.save(adapted, folder / name)
        expected[name] = ref.logits(adapted, ids)
    store(folder / "expected.safetensors", expected)
    print(f"peft: {', '.join(peft_reference.CASES)}")


def store_preferences(base: Path) -> None:
    """Curves of TRL, which nothing else here needs."""
    from parity import preferences

    preferences.store_all(store, base, FIXTURES / "preferences")


def main() -> None:
    versions()
    # Sums over threads come in any order.
    torch.set_num_threads(1)
    if sys.argv[1:] == ["peft"]:
        store_peft(FIXTURES / "models" / "llama_gqa")
        return
    if names := sys.argv[1:]:
        for name in names:
            if name == "methods":
                methods.store_all(store, FIXTURES / "models" / "llama_gqa", FIXTURES / "methods")
            elif name == "preferences":
                store_preferences(FIXTURES / "models" / "llama_gqa")
            elif name == "configurations":
                configuration_reference.store(store, FIXTURES / "models", FIXTURES / "configurations")
            elif name == "prompts":
                prompts.store_all(store, FIXTURES / "models" / "llama_gqa", FIXTURES / "prompts")
            else:
                store_model(name, ref.CASES[name])
        return
    shutil.rmtree(FIXTURES, ignore_errors=True)
    for name, case in ref.CASES.items():
        store_model(name, case)
    store_lora(FIXTURES / "models" / "llama_gqa")
    methods.store_all(store, FIXTURES / "models" / "llama_gqa", FIXTURES / "methods")
    prompts.store_all(store, FIXTURES / "models" / "llama_gqa", FIXTURES / "prompts")
    store_full(FIXTURES / "models" / "llama_tied")
    store_preferences(FIXTURES / "models" / "llama_gqa")
    store_peft(FIXTURES / "models" / "llama_gqa")
    configuration_reference.store(store, FIXTURES / "models", FIXTURES / "configurations")
    chat_reference.store(FIXTURES / "models" / "chat", FIXTURES / "chat.json", versions())
    total = sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file())
    print(f"{total / 1e6:.2f} MB in {FIXTURES}")
    if total > BUDGET_BYTES:
        sys.exit(f"the fixtures may hold at most {BUDGET_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
