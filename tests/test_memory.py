"""What a run takes of memory: told before it begins, kept to, and mended when it runs out."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, HardwareCompatibilityError
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
from support.engine import MODELS, Event, Run, train
from support.rows import random_ids, write_words

pytestmark = pytest.mark.alone

SHORT: dict[str, Any] = {"iters": 4, "eval_batches": 2}


@pytest.fixture
def limit() -> Any:
    """Puts MLX's memory limit back."""
    before = mx.set_memory_limit(1 << 40)
    mx.set_memory_limit(before)
    yield before
    mx.set_memory_limit(before)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "full"},
        {"method": "full", "optimizer": "sgd", "keep_best": False},
        {"bits": 4},
        {"grad_checkpoint": 1},
        {"grad_accumulation": 3},
        {"packing": True, "max_seq_length": 256},
    ],
    ids=str,
)
def test_the_estimate_is_near_what_is_measured(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = train(MODEL, INSTRUCTIONS, tmp_path / "run", **{"iters": 30, "eval_every": 10, **settings})
    expected = run.report["memory"]
    [event] = run.of("estimated")
    assert {"event": "estimated", **expected} == event
    parts = ("weights", "optimizer", "activations", "update")
    assert expected["peak"] == sum(expected[part] for part in parts)
    assert 0.8 < expected["peak"] / run.report["peak_memory_bytes"] < 1.25


def test_a_budget_divides_batches_and_changes_no_step(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"iters": 8, "batch_size": 12, "grad_accumulation": 2, "eval_batches": 0}
    free = train(MODEL, INSTRUCTIONS, tmp_path / "free", **settings)
    tight = train(MODEL, INSTRUCTIONS, tmp_path / "tight", **settings, memory_budget_gb=0.06)
    assert free.report["memory"]["rows"] == 12
    assert 1 <= tight.report["memory"]["rows"] < 8
    assert tight.report["memory"]["peak"] <= tight.report["memory"]["available"] == 60_000_000
    # Small arrays are not held back.
    assert tight.report["peak_memory_bytes"] < 62_000_000 < free.report["peak_memory_bytes"]
    assert tight.report["trained_tokens"] == free.report["trained_tokens"]
    for losses in ("train_losses", "validation_losses"):
        np.testing.assert_allclose(tight.report[losses], free.report[losses], rtol=2e-5)
    assert tight.of("out_of_memory") == []


def test_a_budget_too_small_for_one_row_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"memory_budget_gb is 0\.010.* one row of \d+ tokens .* needs about 0"
    ):
        train(MODEL, INSTRUCTIONS, tmp_path / "run", **SHORT, memory_budget_gb=0.01)
    assert not (tmp_path / "run/training.json").exists()


def test_running_out_of_memory_halves_what_goes_through_at_once(tmp_path: Path, limit: int) -> None:
    settings: dict[str, Any] = {**SHORT, "batch_size": 16}
    free = train(MODEL, INSTRUCTIONS, tmp_path / "free", **settings)

    def take_away(run: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == 2:
            mx.set_memory_limit(free.report["peak_memory_bytes"] // 2)
        if event["event"] == "finished":
            mx.set_memory_limit(limit)

    poor = train(MODEL, INSTRUCTIONS, tmp_path / "poor", take_away, **settings)
    shortages = poor.of("out_of_memory")
    assert shortages
    assert shortages[0]["step"] == 3
    assert all(1 <= event["rows"] < 16 for event in shortages)
    assert poor.report["train_losses"][:2] == free.report["train_losses"][:2]
    np.testing.assert_allclose(poor.report["train_losses"], free.report["train_losses"], rtol=2e-5)
    np.testing.assert_allclose(poor.report["loss_after"], free.report["loss_after"], rtol=2e-5)


def test_memory_that_runs_out_with_a_single_row_is_an_error(tmp_path: Path, limit: int) -> None:
    def take_away(run: Run, event: Event) -> None:
        if event["event"] == "step":
            mx.set_memory_limit(1000)

    with pytest.raises(
        HardwareCompatibilityError, match=r"memory ran out with a single row of \d+ tokens.*max_seq_length"
    ):
        train(MODEL, INSTRUCTIONS, tmp_path / "run", take_away, **SHORT)
    assert not (tmp_path / "run/training.json").exists()


def test_an_interrupted_run_goes_on_with_another_budget(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", random_ids(8, [5, 9, 14], seed=1), random_ids(2, [8], seed=2))
    settings: dict[str, Any] = {"iters": 6, "batch_size": 4}
    whole = train(MODELS / "llama_gqa", data, tmp_path / "whole", **settings)

    def stop(run: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MODELS / "llama_gqa", data, tmp_path / "part", stop, **settings)
    rest = train(MODELS / "llama_gqa", data, tmp_path / "part", resume=True, **settings, memory_budget_gb=1.0)
    np.testing.assert_allclose(rest.report["train_losses"], whole.report["train_losses"], rtol=1e-6)


def test_memory_can_be_asked_for_without_training() -> None:
    trainer = MLXTrainer(TrainingConfig(batch_size=3, grad_checkpoint=1))
    expected = trainer.estimate_memory()
    assert expected.rows == 3
    assert 0 < expected.activations < MLXTrainer(TrainingConfig(batch_size=3)).estimate_memory().activations
    assert trainer.model is not None
    assert trainer.model.adapters == {}


def test_validate_tells_and_checks_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lora-finetuning-mlx:validate"]) == 0
    assert re.search(r"ok      memory       about \d+ MB of ", capsys.readouterr().out)
    assert main(["lora-finetuning-mlx:validate", "--memory-budget-gb", "0.01", "--json"]) == 2
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["memory"]["status"] == "FAIL"
    assert "memory_budget_gb is 0.010" in checks["memory"]["detail"]


LOADED = """
import re, sys
from efficientai_toolkit._engine.core import core
def peak():
    return int(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1]) * 1024
core.models.load(sys.argv[1], None, None)
before = peak()
model, _ = core.models.load(sys.argv[2], None, sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process is read there")
@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
def test_loading_takes_what_the_weights_take(tmp_path: Path, dtype: str, size: int) -> None:
    config = json.loads((MODEL / "config.json").read_text())
    # Nearly half of it in one matrix, of which a second copy at the end would be seen.
    config |= {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "vocab_size": 30_000}
    config |= {
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    }
    folder = tmp_path / "model"
    core.models.create(json.dumps(config), folder, 0, "bfloat16")
    shutil.copy(MODEL / "tokenizer.json", folder)
    weights = (folder / "model.safetensors").stat().st_size // 2 * size
    command = [sys.executable, "-c", LOADED, str(MODEL), str(folder), dtype]
    more = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert more < 1.15 * weights
