"""A run that is interrupted and continued ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit.exceptions import ToolkitError
from support.command import TIMEOUT_SECS, train_command
from support.command import run as run_command
from support.engine import MODELS, Event, Run, tensors, train
from support.rows import random_ids, write_words

MODEL = MODELS / "llama_gqa"

# Five batches per epoch: the interruption is in the middle of the second one, and the
# learning rate is on its way down.
STEPS, INTERRUPTED = 12, 7
SETTINGS: dict[str, Any] = {
    "iters": STEPS,
    "batch_size": 2,
    "save_every": 3,
    "eval_every": 4,
    "schedule": "cosine",
    "warmup_ratio": 0.2,
    "max_grad_norm": 1.0,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = random_ids(10, [5, 9, 14, 20], seed=1)
    return write_words(tmp_path / "data", rows, random_ids(3, [8, 13], seed=2))


def interrupt(data: Path, output: Path, error: type[BaseException], **settings: Any) -> Run:
    """A run whose observer raises ``error`` right after step 7."""

    def stop(_: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == INTERRUPTED:
            raise error

    part = Run(output)
    with pytest.raises(error):
        train(MODEL, data, output, stop, part, **settings)
    return part


@pytest.mark.parametrize(
    ("error", "extra"),
    [
        (RuntimeError, {}),
        (KeyboardInterrupt, {"lora_dropout": 0.2}),
        (KeyboardInterrupt, {"grad_accumulation": 2}),
        (KeyboardInterrupt, {"method": "full"}),
        (KeyboardInterrupt, {"method": "dora", "lora_dropout": 0.2}),
        (KeyboardInterrupt, {"lora_init": "pissa", "loraplus_lr_ratio": 4.0, "lora_dropout": 0.2}),
        (KeyboardInterrupt, {"lora_init": "pissa_niter_2", "use_rslora": True}),
        (KeyboardInterrupt, {"method": "adalora", "adalora_tfinal": 3, "adalora_delta_t": 2}),
        (KeyboardInterrupt, {"method": "adalora", "adalora_tfinal": 8, "lora_dropout": 0.2}),
        (KeyboardInterrupt, {"optimizer": "adam", "weight_decay": 0.1, "schedule": "wsd"}),
        (KeyboardInterrupt, {"optimizer": "sgd", "nesterov": True, "schedule": "cosine_with_restarts"}),
        (KeyboardInterrupt, {"optimizer": "adafactor", "method": "full"}),
        (KeyboardInterrupt, {"optimizer": "lion", "schedule": "polynomial"}),
        (KeyboardInterrupt, {"optimizer": "muon", "method": "full"}),
        (KeyboardInterrupt, {"neftune_alpha": 5.0, "grad_checkpoint": 1}),
        (KeyboardInterrupt, {"dtype": "float16"}),
        (KeyboardInterrupt, {"dtype": "bfloat16", "lora_dropout": 0.2}),
        (KeyboardInterrupt, {"dtype": "bfloat16", "method": "full"}),
        (KeyboardInterrupt, {"bits": 4, "lora_dropout": 0.2}),
        (KeyboardInterrupt, {"bits": 4, "method": "dora", "dtype": "bfloat16"}),
        (KeyboardInterrupt, {"packing": True, "max_seq_length": 32}),
        (KeyboardInterrupt, {"packing": True, "max_seq_length": 32, "bits": 4, "grad_accumulation": 2}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else ", ".join(map(str, value.values())),
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    data: Path, tmp_path: Path, error: type[BaseException], extra: dict[str, Any]
) -> None:
    settings = {**SETTINGS, **extra}
    whole = train(MODEL, data, tmp_path / "whole", **settings)
    part = interrupt(data, tmp_path / "part", error, **settings)
    rest = train(MODEL, data, part.output, resume=True, **settings)

    first = rest.of("started")[0]["first_step"]
    assert rest.report["resumed_from"] == first
    # At worst the last regular checkpoint.
    assert INTERRUPTED // 3 * 3 <= first <= INTERRUPTED
    assert list(rest.losses) == list(range(first + 1, STEPS + 1))
    assert {**part.losses, **rest.losses} == whole.losses
    # Also the part that went through a file.
    assert rest.report["train_losses"] == whole.report["train_losses"]
    assert rest.report["validation_losses"] == whole.report["validation_losses"]
    assert rest.report["rank_pattern"] == whole.report["rank_pattern"]
    for old, new in zip(reversed(whole.of("step")), reversed(rest.of("step")), strict=False):
        assert (old["step"], old["lr"], old["epoch"]) == (new["step"], new["lr"], new["epoch"])
        assert old["grad_norm"] == new["grad_norm"]
    assert [e["loss"] for e in whole.of("evaluated")][-2:] == [e["loss"] for e in rest.of("evaluated")][-2:]

    name = "model.safetensors" if settings.get("method") == "full" else "adapters.safetensors"
    expected, result = tensors(whole.output / name), tensors(part.output / name)
    assert expected.keys() == result.keys()
    for key, value in expected.items():
        assert np.array_equal(value, result[key]), key


@pytest.mark.alone
def test_ctrl_c_itself_saves_a_checkpoint(data: Path, tmp_path: Path) -> None:
    """Without any regular checkpoint there is still one to continue from."""
    settings = {**SETTINGS, "save_every": 0}
    part = interrupt(data, tmp_path / "part", KeyboardInterrupt, **settings)
    rest = train(MODEL, data, part.output, resume=True, **settings)
    assert rest.report["resumed_from"] == INTERRUPTED


@pytest.mark.parametrize("step", [4, STEPS], ids=["one was due", "the last step"])
def test_an_evaluation_that_was_cut_off_is_made_up_for(data: Path, tmp_path: Path, step: int) -> None:
    whole = train(MODEL, data, tmp_path / "whole", **SETTINGS)

    def stop(_: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MODEL, data, tmp_path / "part", stop, **SETTINGS)
    rest = train(MODEL, data, tmp_path / "part", resume=True, **SETTINGS)
    for key in ("validation_losses", "train_losses", "perplexity_after"):
        assert rest.report[key] == whole.report[key], key


def test_another_base_model_is_refused(data: Path, tmp_path: Path) -> None:
    part = interrupt(data, tmp_path / "part", KeyboardInterrupt, **SETTINGS)
    with pytest.raises(ToolkitError, match="model was"):
        train(MODELS / "llama_bias", data, part.output, resume=True, **SETTINGS)


def test_fewer_steps_than_were_taken_are_refused(data: Path, tmp_path: Path) -> None:
    part = interrupt(data, tmp_path / "part", KeyboardInterrupt, **SETTINGS)
    with pytest.raises(ToolkitError, match=f"already taken {INTERRUPTED}"):
        train(MODEL, data, part.output, resume=True, **{**SETTINGS, "iters": 5})


def test_a_damaged_checkpoint_is_named(data: Path, tmp_path: Path) -> None:
    part = interrupt(data, tmp_path / "part", KeyboardInterrupt, **SETTINGS)
    newest = max((part.output / "checkpoints").glob("step-*"))
    files = list(newest.rglob("*.safetensors"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ToolkitError, match=newest.name):
        train(MODEL, data, part.output, resume=True, **SETTINGS)


def test_nothing_but_whole_checkpoints_is_left_behind(data: Path, tmp_path: Path) -> None:
    part = interrupt(data, tmp_path / "part", KeyboardInterrupt, **SETTINGS)
    names = [path.name for path in (part.output / "checkpoints").iterdir()]
    assert all(name.startswith("step-") and name[5:].isdigit() for name in names), names
    assert not (part.output / "training.json").exists()


@pytest.mark.alone
def test_ctrl_c_on_the_command_line(data: Path, tmp_path: Path) -> None:
    """Exit code 130, one line that says how to go on, and going on works."""
    settings = {
        "model_path": MODEL,
        "data": data,
        "iters": 200,
        "batch_size": 2,
        "save_every": 10,
        "eval_every": 0,
        "dtype": "float32",
    }
    output = tmp_path / "run"
    # Whoever started the tests in the background may ignore the signal, and a child inherits that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        train_command(**settings, output=output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, previous)
    try:
        deadline = time.monotonic() + TIMEOUT_SECS
        while not list(output.glob("checkpoints/step-*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT_SECS)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--resume" in errors
    assert not (output / "training.json").exists()

    finished = run_command(train_command(**settings, output=output, resume=True))
    assert finished.returncode == 0, finished.stderr
    whole = run_command(train_command(**settings, output=tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    resumed = json.loads((output / "training.json").read_text())["report"]
    assert resumed["resumed_from"] >= 10
    straight = json.loads((tmp_path / "whole" / "training.json").read_text())["report"]
    assert resumed["loss_after"] == straight["loss_after"]
    expected = tensors(tmp_path / "whole" / "adapters.safetensors")
    for name, value in tensors(output / "adapters.safetensors").items():
        assert np.array_equal(value, expected[name]), name
