"""What TRL computes when it trains on preferences: DPO and ORPO.

Used by ``generate.py``, which stores the values. Needs torch, transformers, peft and trl.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from parity import reference as ref

Store = Callable[[Path, dict[str, torch.Tensor]], None]

STEPS = 10
LENGTHS = [(4, 7, 5), (9, 3, 6), (6, 6, 6), (2, 10, 4), (12, 5, 8)]
"""Words of prompt, chosen and rejected answer of each pair."""
BETA, SMOOTHING, LAMBDA = 0.3, 0.1, 0.4


def pairs(vocab_size: int, seed: int) -> list[dict[str, str]]:
    """Random answers; the batch is all of them, so that their order does not matter."""
    rows: list[dict[str, str]] = []
    for lengths in LENGTHS:
        seed += 1
        ids = ref.random_ids((sum(lengths),), vocab_size, seed)
        prompt, *answers = [ref.words(part.tolist()) for part in ids.split(list(lengths))]
        # TRL reads prompt and answer as one text.
        rows.append({"prompt": prompt, "chosen": f" {answers[0]}", "rejected": f" {answers[1]}"})
    return rows


def settings(folder: str) -> dict[str, Any]:
    """AdamW as ``ref.fit`` has it, all pairs in each step, and nothing else."""
    return {
        "output_dir": folder,
        "max_steps": STEPS,
        "per_device_train_batch_size": len(LENGTHS),
        "learning_rate": ref.ADAM["lr"],
        "weight_decay": ref.ADAM["weight_decay"],
        "adam_epsilon": ref.ADAM["eps"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def train(
    kind: Any, config: Any, model: torch.nn.Module, rows: list[dict[str, str]]
) -> dict[str, torch.Tensor]:
    """Loss, reward margin and reward accuracy of each step."""
    losses: list[torch.Tensor] = []

    class Recorded(kind):  # type: ignore[misc]
        """Logs are rounded to four digits."""

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            losses.append(loss.detach())
            return loss

    # TRL writes an end of text behind each answer.
    tokenizer = ref.word_tokenizer(model.config.vocab_size)
    trainer = Recorded(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    return {
        "losses": torch.stack(losses),
        "margins": torch.tensor([float(entry["rewards/margins"]) for entry in logged]),
        "accuracies": torch.tensor([float(entry["rewards/accuracies"]) for entry in logged]),
    }


def ids_of(text: str) -> list[int]:
    """The ids that the word tokenizer turns ``text`` into."""
    return [int(word.removeprefix("t")) for word in text.split()]


def log_probabilities(
    model: torch.nn.Module, rows: list[dict[str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each answer of each pair: the sum over its tokens, [pairs, 2], and how many they are."""
    sums, counts = [], []
    for row in rows:
        prompt = ids_of(row["prompt"])
        for side in ("chosen", "rejected"):
            ids = torch.tensor([*prompt, *ids_of(row[side]), ref.EOS])[None]
            logp = model(input_ids=ids[:, :-1], use_cache=False).logits.log_softmax(-1)
            logp = logp.gather(-1, ids[:, 1:, None])[0, len(prompt) - 1 :, 0]
            sums.append(logp.sum())
            counts.append(len(logp))
    return torch.stack(sums).view(-1, 2), torch.tensor(counts).view(-1, 2)


def smoothed_dpo(model: torch.nn.Module, base: torch.Tensor, rows: list[dict[str, str]]) -> torch.Tensor:
    """Conservative DPO: https://ericmitchell.ai/cdpo.pdf."""
    sums, _ = log_probabilities(model, rows)
    advantage = BETA * ((sums[:, 0] - base[:, 0]) - (sums[:, 1] - base[:, 1]))
    return (-(1 - SMOOTHING) * logsigmoid(advantage) - SMOOTHING * logsigmoid(-advantage)).mean()


def orpo(model: torch.nn.Module, rows: list[dict[str, str]]) -> torch.Tensor:
    """ORPO whose likelihood is that of the answers alone."""
    sums, counts = log_probabilities(model, rows)
    mean = sums / counts
    odds = mean - torch.log1p(-mean.exp())
    likelihood = -sums[:, 0].sum() / counts[:, 0].sum()
    return likelihood - LAMBDA * logsigmoid(odds[:, 0] - odds[:, 1]).mean()


def fit(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Losses of AdamW steps, each before its update."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, **ref.ADAM)
    losses = []
    for _ in range(STEPS):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses)


def store_all(store: Store, base: Path, folder: Path) -> None:
    """Everything that ``test_trl.py`` compares with; adapters begin as ``lora/initial``."""

    def fresh() -> torch.nn.Module:
        return ref.with_lora(ref.load(base), seed=3, b_std=0.0)

    rows = pairs(fresh().config.vocab_size, seed=40)
    expected: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = settings(scratch)
        for name, kind, config in (
            ("dpo", DPOTrainer, DPOConfig(**arguments, beta=BETA)),
            ("orpo", ORPOTrainer, ORPOConfig(**arguments, beta=LAMBDA)),
        ):
            curves = train(kind, config, fresh(), rows)
            expected |= {f"{name}.{key}": value for key, value in curves.items()}
    moved = ref.with_lora(ref.load(base), seed=1, b_std=0.05)
    model = fresh()
    with torch.no_grad():
        expected["reference"] = log_probabilities(model, rows)[0]
        expected["moved"] = log_probabilities(moved, rows)[0]
    expected["smoothed_dpo.losses"] = fit(model, lambda: smoothed_dpo(model, expected["reference"], rows))
    model = fresh()
    expected["orpo_answers.losses"] = fit(model, lambda: orpo(model, rows))
    orpo(moved, rows).backward()
    gradients = ref.adapter(moved, gradients=True)
    expected |= {f"orpo_answers.gradient.{key}": value for key, value in gradients.items()}
    store(folder / "expected.safetensors", expected)
    made = {"trl": version("trl"), "beta": BETA, "smoothing": SMOOTHING, "lambda": LAMBDA, "pairs": rows}
    (folder / "pairs.json").write_text(json.dumps(made, indent=1) + "\n")
    for name in ("dpo", "orpo", "smoothed_dpo", "orpo_answers"):
        losses = expected[f"{name}.losses"]
        print(f"{name}: {losses[0]:.4f} -> {losses[-1]:.4f}")  # noqa: T201
