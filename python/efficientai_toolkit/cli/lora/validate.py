"""``lora-finetuning-mlx:validate``: check whether training could start."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.callbacks.training import describe_memory
from efficientai_toolkit.cli.lora.groups import ESSENTIAL
from efficientai_toolkit.cli.options import add_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared import data_report
from efficientai_toolkit.cli.shared.training import GROUPS, build_training_config
from efficientai_toolkit.cli.shared.validate import (
    Checks,
    check_environment,
    describe_hardware,
    describe_model,
    report,
)
from efficientai_toolkit.device import hardware
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
from efficientai_toolkit.models.loading import load
from efficientai_toolkit.study.folder import release
from efficientai_toolkit.study.output import check_output

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`TrainingConfig`."""
    add_config(parser, TrainingConfig, title="run", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Print the checks and data statistics; return 2 if a check fails."""
    checks = inspect(build_training_config(args, TrainingConfig), show_progress=not out.quiet)
    return report(checks, out, purpose="train")


def inspect(config: TrainingConfig, *, show_progress: bool = True) -> Checks:
    """Run all checks; skip those that depend on a failed one."""
    checks = Checks()
    engine = checks.check("environment", check_environment, str)
    filled = checks.check("settings", config.with_defaults_filled, lambda _: "valid")
    if engine is None or filled is None:
        checks.skip("hardware", "model", "data", "memory", "output", reason="an earlier check failed")
        return checks
    checks.check("hardware", hardware, describe_hardware)
    loaded = checks.check(
        "model",
        lambda: load(filled.model_path, dtype=filled.dtype, bits=filled.bits, show_progress=show_progress),
        lambda pair: describe_model(*pair),
    )
    if loaded is None:
        checks.skip("data", reason="needs the model's tokenizer")
        checks.skip("memory", reason="needs the model")
    elif (
        checks.check("data", lambda: _data(*loaded, filled), data_report.summarize, settings="settings")
        is None
    ):
        checks.skip("memory", reason="needs the data")
    else:
        trainer = MLXTrainer(filled, model=loaded[0], tokenizer=loaded[1])
        checks.check("memory", trainer.estimate_memory, describe_memory)
    checks.check("output", lambda: check_output(filled, "lora"), str)
    # Nothing is written into it.
    release(Path(str(filled.output)))
    return checks


def _data(model: "Model", tokenizer: "Tokenizer", config: TrainingConfig) -> dict[str, dict[str, Any]]:
    """Return the engine's statistics of the data."""
    from efficientai_toolkit._engine.core import core

    statistics: dict[str, dict[str, Any]] = json.loads(core.lora.validate(model, tokenizer, config.to_json()))
    return statistics
