"""Files that claim more than they hold, or that are none: refused at once, by name, in little memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit import _core
from efficientai_toolkit.exceptions import ModelLoadingError, ToolkitError
from support.engine import FIXTURES, MODELS, train
from support.rows import write_words

MODEL = MODELS / "llama_gqa"
ADAPTER = FIXTURES / "lora" / "gradient"
LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="address space is limited there")

SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
trainer = MLXTrainer(TrainingConfig(output=sys.argv[1], iters=2, eval_batches=1, batch_size=16))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 1_000_000,) * 2)
try:
    trainer.train()
except (ToolkitError, MemoryError) as error:
    print(error)
"""

MLX_OPERATION = """
import mlx.core as mx, resource
from efficientai_toolkit._engine.core import core
mx.eval(mx.ones(10))
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
for _ in range(2):
    active = mx.get_active_memory()
    try:
        mx.eval(mx.ones(1_000_000_000) * 2 + 1)
    except RuntimeError as error:
        print(error)
    print(mx.get_active_memory() - active)
print(mx.ones(10).sum().item())
"""


def python(source: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@LINUX
@pytest.mark.alone
@pytest.mark.parametrize("megabytes", [5, 20, 30, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_short_of_memory_writes_through_no_null_pointer(
    tmp_path: Path, megabytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Printing one takes memory too.
    monkeypatch.delenv("RUST_BACKTRACE", raising=False)
    done = python(SHORT_OF_MEMORY, tmp_path / "run", megabytes)
    # An error, or the end of the process by Rust itself, where not even a few bytes can be had.
    is_abort = done.returncode == -signal.SIGABRT and "memory allocation of" in done.stderr
    assert done.returncode in (0, 1) or is_abort, (done.returncode, done.stderr)


@LINUX
def test_operations_of_mlx_that_get_no_memory_are_errors_and_counted_as_none() -> None:
    done = python(MLX_OPERATION)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines == ["out of memory: the system has no 4000000000 bytes", "0"] * 2 + ["10.0"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def replace_by(path: Path, kind: str) -> None:
    """Put a pipe without a writer, or an endless device, where a file was."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
    ],
)
def test_files_of_a_model_are_regular(model: Path, kind: str, name: str) -> None:
    replace_by(model / name, kind)
    with pytest.raises(ToolkitError, match=rf"{name}: .*not a regular file"):
        _core.models.load(str(model), None, "float32")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_indices_adapters_and_data_are_regular(tmp_path: Path, model: Path, kind: str) -> None:
    replace_by(model / "model.safetensors.index.json", kind)
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelLoadingError, match=r"index\.json: .*not a regular file"):
        _core.models.load(str(model), None, "float32")
    adapter = Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))
    replace_by(adapter / "adapter_config.json", kind)
    with pytest.raises(ModelLoadingError, match=r"adapter_config\.json: .*not a regular file"):
        _core.models.load(str(MODEL), str(adapter), "float32")
    for suffix in ("jsonl", "json", "csv", "parquet", "safetensors"):
        data = tmp_path / f"data.{suffix}"
        replace_by(data, kind)
        with pytest.raises(ToolkitError, match=rf"data\.{suffix}: .*not a regular file"):
            train(MODEL, data, tmp_path / "run", iters=1)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes in folders")
def test_checkpoints_are_regular(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", [[5, 6, 7, 8]] * 8, [[5, 6, 7]] * 2)
    train(MODEL, data, tmp_path / "run", iters=2, save_every=1)
    for state in (tmp_path / "run" / "checkpoints").glob("step-*/state.json"):
        replace_by(state, "pipe")
    (tmp_path / "run" / "training.json").unlink()
    with pytest.raises(ToolkitError, match=r"state\.json: .*not a regular file"):
        train(MODEL, data, tmp_path / "run", iters=4, save_every=1, resume=True)


def test_experts_that_the_weights_do_not_have_are_refused_before_they_are_built(tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODELS / "qwen3_moe", tmp_path / "model"))
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    config |= {"num_experts": 1 << 14, "num_hidden_layers": 8}
    (model / "config.json").write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with pytest.raises(
        ModelLoadingError, match=r'config\.json: "num_experts" is 16384, but the weights have'
    ):
        _core.models.load(str(model), None, "float32")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 2


LONG_VALUES = {
    "string": '[{{"text": "{}"}}]',
    "array": '[{{"messages": [{}1]}}]',
}


@LINUX
@pytest.mark.alone
@pytest.mark.parametrize("shape", LONG_VALUES)
def test_a_row_of_a_hundred_megabytes_is_refused_in_little_memory(tmp_path: Path, shape: str) -> None:
    data = tmp_path / "data.json"
    filling = "x" * 100_000_000 if shape == "string" else "1," * 50_000_000
    data.write_text(LONG_VALUES[shape].format(filling))
    source = """
import re, sys
from efficientai_toolkit._engine.core import core
import json
model, tokenizer = core.models.load(sys.argv[1], None, "float32")
peak = lambda: int(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])
before = peak()
try:
    core.lora.train(model, tokenizer, json.dumps({"model_path": sys.argv[1], "data": sys.argv[2],
        "output": sys.argv[2] + ".run"}), lambda text: None)
except Exception as error:
    print(error)
print(peak() - before)
"""
    done = python(source, MODEL, data)
    message, more = done.stdout.splitlines()
    assert "data.json: row 1: the row is longer than 16777216 bytes" in message
    assert int(more) < 100_000
