"""What a search leaves on disk beside Optuna's storage."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from efficientai_toolkit._config import options
from efficientai_toolkit.lora import TrainingConfig

if TYPE_CHECKING:
    from efficientai_toolkit.optimization.run import OptimizationResult

_OWN = {"output", "resume", "overwrite"}


def write_best(folder: Path, config: TrainingConfig) -> dict[str, Any]:
    """Write ``best.yaml``, which ``train --config`` takes; what it holds."""
    settings = {
        option.name: value
        for option in options(TrainingConfig)
        if option.name not in _OWN and (value := getattr(config, option.name)) != option.default
    }
    write(folder / "best.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return settings


def write_trials(result: "OptimizationResult") -> None:
    """Write ``trials.json``: the whole result for programs."""
    write(result.output / "trials.json", json.dumps(asdict(result), indent=2, default=str) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file at once: readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
