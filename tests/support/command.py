"""The toolkit in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).with_name("efficientai-toolkit")
TIMEOUT_SECS = 100


def options(**settings: Any) -> list[str]:
    """``batch_size=2, resume=True`` → ``--batch-size 2 --resume``."""
    words = []
    for name, value in settings.items():
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return words


def train_command(**settings: Any) -> list[str]:
    """The command line of a silent training run."""
    return [str(PROGRAM), "lora-finetuning-mlx:train", "--progress", "silent", *options(**settings)]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """To the end, with its output."""
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECS)


def python(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run lines of Python; ``arguments`` are ``sys.argv[1:]``."""
    return run([sys.executable, "-c", source, *arguments])
