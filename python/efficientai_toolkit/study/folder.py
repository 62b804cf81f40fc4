"""What a search leaves on disk beside Optuna's storage."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from efficientai_toolkit._base.config import options
from efficientai_toolkit._base.files import write_text
from efficientai_toolkit.lora.config import TrainingConfig

if TYPE_CHECKING:
    from efficientai_toolkit.study.search import OptimizationResult

_OWN = {"output", "resume", "overwrite"}


def write_settings(path: Path, config: TrainingConfig) -> dict[str, Any]:
    """Write what differs from the defaults, which ``train --config`` takes; what it holds."""
    settings = {
        option.name: value
        for option in options(TrainingConfig)
        if option.name not in _OWN and (value := getattr(config, option.name)) != option.default
    }
    write_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return settings


def write_trials(result: "OptimizationResult") -> None:
    """Write ``trials.json``: the whole result for programs."""
    write_text(result.output / "trials.json", json.dumps(asdict(result), indent=2, default=str) + "\n")
