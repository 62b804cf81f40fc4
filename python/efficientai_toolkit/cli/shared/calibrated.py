"""Checks before a run that changes a whole model on calibration text."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.shared.validate import (
    Checks,
    check_environment,
    describe_hardware,
    describe_model,
)
from efficientai_toolkit.device import hardware
from efficientai_toolkit.models.loading import load
from efficientai_toolkit.study.folder import release
from efficientai_toolkit.study.output import check_output

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run would work on."""

    layers: int
    """Number of layers to change."""
    sequences: int
    """Number of calibration sequences."""
    tokens: int
    """Number of calibration tokens."""


def inspect(fill: Callable[[], Config], room: str, *, show_progress: bool = True) -> Checks:
    """Run all checks; skip those that depend on a failed one.

    Parameters
    ----------
    fill
        Returns the configuration with model, calibration text and output folder filled in.
    room
        Room of the engine, such as ``quantize``.
    show_progress
        Show a progress bar during downloads.
    """
    checks = Checks()
    engine = checks.check("environment", check_environment, str)
    filled = checks.check("settings", fill, lambda _: "valid")
    if engine is None or filled is None:
        checks.skip("hardware", "model", "calibration", "output", reason="an earlier check failed")
        return checks
    values = filled.to_dict()
    checks.check("hardware", hardware, describe_hardware)
    loaded = checks.check(
        "model",
        lambda: load(values["model_path"], dtype="auto", show_progress=show_progress),
        lambda pair: describe_model(*pair),
    )
    if loaded is None:
        checks.skip("calibration", reason="needs the model's tokenizer")
    else:
        checks.check(
            "calibration",
            lambda: _plan(*loaded, filled, room),
            lambda plan: _describe(plan, room),
            settings="settings",
        )
    checks.check("output", lambda: check_output(filled, room), str)
    # Nothing is written into it.
    release(Path(values["output"]))
    return checks


def _plan(model: "Model", tokenizer: "Tokenizer", config: Config, room: str) -> Plan:
    from efficientai_toolkit._engine.core import core

    return Plan(**json.loads(getattr(core, room).validate(model, tokenizer, config.to_json())))


def _describe(plan: Plan, verb: str) -> str:
    text = f"{plan.tokens:,} tokens in {plan.sequences:,} sequences" if plan.sequences else "none"
    return f"{text}; {plan.layers:,} layers to {verb}"
