"""A sample of what ``tests/hostile_inputs.py`` reads by the thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("hostile_inputs.py")
QUICK = "tokenizer,json,parquet,tokens"
REST = "safetensors,config,tokenizer_config,index,adapter,jsonl,csv,settings,checkpoint,results"


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read there")
@pytest.mark.parametrize(
    ("readers", "cases"),
    [
        pytest.param(QUICK, 60, id="quick"),
        pytest.param("gguf", 500, id="gguf"),
        pytest.param("gguf", 5_000, id="gguf-thousands", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param(REST, 200, id="rest", marks=pytest.mark.slow),
        # Templates without end are stopped after some seconds each.
        pytest.param("template", 24, id="templates", marks=pytest.mark.slow),
    ],
)
def test_nothing_crashes_hangs_or_takes_all_memory(tmp_path: Path, readers: str, cases: int) -> None:
    words = [sys.executable, str(PROGRAM), "--readers", readers, "--cases", str(cases), "--seed", "1"]
    words += ["--keep", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + (tmp_path / "stderr.txt").read_text()
    assert f"{cases} inputs: crash 0, hang 0, memory 0, foreign 0" in done.stdout
