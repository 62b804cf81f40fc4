"""Our numbers against those of transformers and PEFT, stored by ``generate.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
import pytest

from support.engine import (
    FIXTURES,
    MODELS,
    continuation,
    largest,
    logits,
    recovered_gradients,
    tensors,
    train,
)
from support.rows import write_words

if TYPE_CHECKING:
    from support.figures import Check

CASES = [
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "lfm2",
    "lfm2_moe",
    "llama_bf16_sharded",
    "llama_bias",
    "llama_fp16_old",
    "llama_gqa",
    "llama_head_dim",
    "llama_rope",
    "llama_tied",
    "mistral_window",
    "mixtral",
    "phi3",
    "phi3_crossing",
    "phi3_long",
    "phi3_short",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "qwen3_moe_unnormalised",
    "smollm3",
]

LOGITS, GRADIENTS, LOSSES, TENSORS = 1e-4, 1e-4, 1e-3, 1e-4


def expected(case: str) -> dict[str, np.ndarray]:
    return tensors(FIXTURES / "expected" / f"{case}.safetensors")


@pytest.fixture
def lora() -> dict[str, np.ndarray]:
    return tensors(FIXTURES / "lora" / "expected.safetensors")


@pytest.fixture
def batch(lora: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """The training rows of the LoRA fixture; the toolkit adds their last token, end-of-text."""
    return write_words(tmp_path / "data", lora["ids"][:, :-1].tolist())


def test_every_fixture_is_tested_and_names_its_makers() -> None:
    files = sorted((FIXTURES / "expected").glob("*.safetensors"))
    assert [path.stem for path in files] == CASES
    for path in [*files, FIXTURES / "lora" / "expected.safetensors"]:
        _, metadata = mx.load(str(path), return_metadata=True)
        assert {"torch", "transformers", "peft"} <= json.loads(metadata["made_with"]).keys()


def test_the_fixtures_stay_small() -> None:
    assert sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file()) <= 5_000_000


@pytest.mark.parametrize("case", CASES)
def test_logits(case: str, figure: Check) -> None:
    want = expected(case)
    figure(f"{case} logits", largest(logits(MODELS / case, want["ids"]), want["logits"]), LOGITS)


@pytest.mark.parametrize("case", CASES)
def test_greedy_continuation(case: str, figure: Check) -> None:
    want = expected(case)
    # The stored lead of every token is far above the error of the logits.
    assert want["margins"].min() > 10 * LOGITS
    count = len(want["continuation"])
    got = continuation(MODELS / case, want["prompt"].tolist(), count)
    assert len(got) == count
    different = sum(a != b for a, b in zip(got, want["continuation"].tolist(), strict=True))
    figure(f"{case} greedy tokens that differ of {count}", different, 0)


def test_logits_with_an_adapter_made_by_peft(lora: dict[str, np.ndarray], figure: Check) -> None:
    want = lora["gradient_logits"]
    ids = lora["ids"][: len(want), :-1]
    adapted = logits(MODELS / "llama_gqa", ids, FIXTURES / "lora" / "gradient")
    assert largest(adapted, logits(MODELS / "llama_gqa", ids)) > 0.1
    figure("peft adapter logits", largest(adapted, want), LOGITS)


def test_lora_gradients(lora: dict[str, np.ndarray], batch: Path, tmp_path: Path, figure: Check) -> None:
    run, gradients = recovered_gradients(
        MODELS / "llama_gqa", batch, tmp_path / "run", FIXTURES / "lora" / "gradient"
    )
    want = {
        name.removeprefix("gradient."): g for name, g in lora.items() if name.startswith("gradient.model")
    }
    assert gradients.keys() == want.keys()
    figure("peft loss", abs(run.losses[1] - float(lora["gradient_loss"])), LOGITS)
    figure("peft lora gradients", max(largest(gradients[k], want[k]) for k in want), GRADIENTS)
    relative = max(largest(gradients[k], want[k]) / np.abs(want[k]).max() for k in want)
    figure("peft lora gradients, relative", relative, LOSSES)
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in want.values()))
    figure("peft lora gradient norm", abs(run.of("step")[0]["grad_norm"] - norm), GRADIENTS)


def test_lora_loss_curve(lora: dict[str, np.ndarray], batch: Path, tmp_path: Path, figure: Check) -> None:
    want = lora["losses"]
    run = train(
        MODELS / "llama_gqa",
        batch,
        tmp_path / "run",
        iters=len(want),
        init_adapter=str(FIXTURES / "lora" / "initial"),
    )
    assert want[0] - want[-1] > 1, "the fixture must learn something"
    figure(f"peft lora loss, {len(want)} steps", largest(list(run.losses.values()), want), LOSSES)
    final = tensors(FIXTURES / "lora" / "final" / "adapters.safetensors")
    got = run.adapter
    assert got.keys() == final.keys()
    # Adam divides noise by noise where a gradient is almost zero, so single entries may stray.
    stray = np.mean([np.abs(got[k] - final[k]).mean() for k in final])
    figure("peft lora matrices after training, mean", stray, TENSORS)


def test_full_loss_curve(tmp_path: Path, figure: Check) -> None:
    full = tensors(FIXTURES / "full" / "expected.safetensors")
    data = write_words(tmp_path / "data", full["ids"][:, :-1].tolist())
    want = full["losses"]
    run = train(MODELS / "llama_tied", data, tmp_path / "run", method="full", iters=len(want))
    assert want[0] - want[-1] > 1, "the fixture must learn something"
    figure(f"torch full loss, {len(want)} steps", largest(list(run.losses.values()), want), LOSSES)
