"""What a result depends on besides its case: packages, machine, device, threads, revision of the code."""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.device import hardware
from efficientai_toolkit.study.folder import describe_environment

_PACKAGES = (
    "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-metal", "mlx-lm", "onnxruntime", "peft", "torch",
    "transformers",
)  # fmt: skip
"""Packages that are recorded if they are installed, beside those of every study."""

_VARIABLES = (
    "EAT_ISA", "EAT_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
"""Environment variables that choose threads and instructions."""


def capture_environment(suite: Suite) -> dict[str, Any]:
    """Return the environment of a run of ``suite`` as a JSON object.

    Raises
    ------
    DependencyError
        If MLX is missing or has the wrong version.
    """
    return {
        "packages": describe_environment() | _list_packages(),
        "hardware": asdict(hardware()),
        "threads": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "revision": find_revision(Path(suite.source).resolve().parent if suite.is_file else Path.cwd()),
        "suite": _fingerprint(suite),
    }


def find_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return the first thing in which two environments differ, such as ``packages.mlx: 0.31 → 0.32``."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inside = find_change(cast("dict[str, Any]", old), cast("dict[str, Any]", new))
            if inside is not None:
                return f"{name}.{inside}"
        elif old != new:
            return f"{name}: {old} → {new}"
    return None


def find_revision(folder: Path) -> str | None:
    """Return the git commit of a folder, with ``+`` after changes; ``None`` outside of a repository."""
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def measure_load() -> float | None:
    """Return the load average of the last minute, where the system has one."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _list_packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _fingerprint(suite: Suite) -> str | None:
    """Return a hash of the suite's file; other suites change with their packages."""
    if not suite.is_file:
        return None
    try:
        return hashlib.sha256(Path(suite.source).read_bytes()).hexdigest()[:16]
    except OSError:
        return None
