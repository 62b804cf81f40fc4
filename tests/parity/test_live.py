"""The comparisons of ``test_transformers.py`` on fresh random weights, with the peers at hand.

``PARITY_SEED`` repeats a run; the seed is part of every test's name.
"""

# ruff: noqa: PLR0917, because pytest passes fixtures by name
from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from support.command import run as run_command
from support.command import train_command
from support.engine import (
    FIXTURES,
    MODELS,
    continuation,
    largest,
    logits,
    recovered_gradients,
    tensors,
    train,
    write_adapter,
)
from support.rows import write_jsonl, write_words

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [
    pytest.mark.parity,
    pytest.mark.timeout(600),
    # PEFT calls what transformers is about to rename.
    pytest.mark.filterwarnings("default::FutureWarning"),
]

CASES = sorted(path.stem for path in (FIXTURES / "expected").iterdir())
FAMILIES = [name for name in CASES if "losses" in tensors(FIXTURES / "expected" / f"{name}.safetensors")]
LOGITS, GRADIENTS, LOSSES = 1e-4, 1e-4, 1e-3


@pytest.fixture
def base(ref: ModuleType, seed: int, tmp_path: Path) -> Path:
    case = ref.CASES["llama_gqa"]
    ref.save(ref.build(case, seed), case, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def batch(ref: ModuleType, seed: int, tmp_path: Path) -> tuple[Any, Path]:
    """Rows as a tensor, and as a data folder."""
    ids = ref.rows(4, 24, 256, seed + 1)
    return ids, write_words(tmp_path / "data", ids[:, :-1].tolist())


def store_adapter(ref: ModuleType, folder: Path, model: Any) -> Path:
    values = {name: value.numpy() for name, value in ref.adapter(model).items()}
    config = folder.with_suffix(".json")
    config.write_text(json.dumps(ref.adapter_config(model.config.num_hidden_layers)))
    return write_adapter(folder, values, config)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_continuation(
    ref: ModuleType, name: str, seed: int, tmp_path: Path, figure: Check
) -> None:
    made = ref.clear_checkpoint(ref.CASES[name], tmp_path / name, seed)
    ids = ref.random_ids((2, 24), made.model.config.vocab_size, seed)
    want = ref.logits(made.model, ids).numpy()
    figure(f"live {name} logits", largest(logits(tmp_path / name, ids.numpy()), want), LOGITS)
    count = len(made.continuation)
    got = continuation(tmp_path / name, made.prompt.tolist(), count)
    different = sum(a != b for a, b in zip(got, made.continuation.tolist(), strict=True))
    figure(f"live {name} greedy tokens that differ of {count}", different, 0)


def test_lora_gradients(
    ref: ModuleType, base: Path, batch: tuple[Any, Path], seed: int, tmp_path: Path, figure: Check
) -> None:
    ids, data = batch
    model = ref.with_lora(ref.load(base), seed, b_std=0.05)
    ref.token_loss(model, ids).backward()
    want = {name: gradient.numpy() for name, gradient in ref.adapter(model, gradients=True).items()}
    initial = store_adapter(ref, tmp_path / "initial", model)
    _, got = recovered_gradients(base, data, tmp_path / "run", initial)
    figure("live peft lora gradients", max(largest(got[name], want[name]) for name in want), GRADIENTS)


def test_lora_loss_curve(
    ref: ModuleType, base: Path, batch: tuple[Any, Path], seed: int, tmp_path: Path, figure: Check
) -> None:
    ids, data = batch
    model = ref.with_lora(ref.load(base), seed, b_std=0.0)
    initial = store_adapter(ref, tmp_path / "initial", model)
    want = ref.fit(model, ids, 20).numpy()
    run = train(base, data, tmp_path / "run", iters=20, init_adapter=str(initial))
    figure("live peft lora loss, 20 steps", largest(list(run.losses.values()), want), LOSSES)
    scores = ref.logits(model, ids[:, :-1]).numpy()
    figure(
        "live peft lora logits after training",
        largest(logits(base, ids[:, :-1].numpy(), run.output), scores),
        1e-2,
    )


def test_full_training_and_back_to_transformers(
    ref: ModuleType, base: Path, batch: tuple[Any, Path], tmp_path: Path, figure: Check
) -> None:
    ids, data = batch
    want = ref.fit(ref.load(base), ids, 10).numpy()
    run = train(base, data, tmp_path / "run", method="full", iters=10)
    figure("live torch full loss, 10 steps", largest(list(run.losses.values()), want), LOSSES)
    theirs = ref.logits(ref.load(run.output), ids).numpy()
    figure("live transformers reads our full model", largest(logits(run.output, ids.numpy()), theirs), LOGITS)


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_what_we_save(ref: ModuleType, name: str, tmp_path: Path, figure: Check) -> None:
    stored = tensors(FIXTURES / "expected" / f"{name}.safetensors")
    data = write_words(tmp_path / "data", stored["rows"][:, :-1].tolist())
    run = train(MODELS / name, data, tmp_path / "run", method="full", iters=2, lr=1e-2)
    ids = stored["ids"]
    assert largest(logits(run.output, ids), stored["logits"]) > 0.05
    theirs = ref.logits(ref.load(run.output), ref.torch.tensor(ids).long()).numpy()
    figure(f"live transformers reads our {name}", largest(logits(run.output, ids), theirs), LOGITS)


def test_peft_reads_our_adapter(
    ref: ModuleType, base: Path, batch: tuple[Any, Path], seed: int, tmp_path: Path, figure: Check
) -> None:
    """Through a transpose only: the matrices mean the same there."""
    ids, data = batch
    run = train(base, data, tmp_path / "run", iters=5, lr=1e-2)
    model = ref.with_lora(ref.load(base), seed, b_std=0.0)
    ref.set_adapter(model, run.adapter)
    theirs = ref.logits(model, ids).numpy()
    ours = logits(base, ids.numpy(), run.output)
    assert largest(ours, logits(base, ids.numpy())) > 0.05
    figure("live peft with our adapter", largest(ours, theirs), LOGITS)


@pytest.mark.usefixtures("ref")
def test_the_command_line_trains_a_checkpoint_of_transformers(seed: int, tmp_path: Path) -> None:
    """On rows like those of WikiSQL, with a byte-level tokenizer."""
    from parity import chat_reference

    chat_reference.store(tmp_path / "model", tmp_path / "chat.json", {})
    tables = ["flights", "players", "rivers"]
    rows = [
        {"text": f"table: {name}\ncolumns: Name, Year\nQ: Who was number {i}?\nA: SELECT Name FROM {name}"}
        for i in range(8)
        for name in tables
    ]
    for split, part in {"train": rows[:20], "valid": rows[20:22], "test": rows[22:]}.items():
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", part)
    output = tmp_path / "run"
    done = run_command(
        train_command(
            model_path=tmp_path / "model", data=tmp_path / "data", output=output, epochs=3, lr=1e-2, seed=seed
        )
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((output / "training.json").read_text())["report"]
    assert report["loss_after"] < report["loss_before"] - 0.5
    assert all(np.isfinite(value).all() for value in tensors(output / "adapters.safetensors").values())
