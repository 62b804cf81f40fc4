"""``quantized-model-benchmarks:validate``: check whether a quantization could start."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.quantize.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.shared.validate import (
    Checks,
    check_environment,
    describe_hardware,
    describe_model,
    report,
)
from efficientai_toolkit.device import hardware
from efficientai_toolkit.models.loading import load
from efficientai_toolkit.quantize import QuantizeConfig
from efficientai_toolkit.study.folder import release
from efficientai_toolkit.study.output import check_output

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

__all__ = ["ESSENTIAL", "add_arguments", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a quantization would work on."""

    layers: int
    """Number of layers to quantize."""
    sequences: int
    """Number of calibration sequences."""
    tokens: int
    """Number of calibration tokens."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`QuantizeConfig`."""
    add_config(parser, QuantizeConfig, title="quantization", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Print the checks; return 2 if one fails."""
    return report(
        inspect(build_config(args, QuantizeConfig), show_progress=not out.quiet), out, purpose="quantize"
    )


def inspect(config: QuantizeConfig, *, show_progress: bool = True) -> Checks:
    """Run all checks; skip those that depend on a failed one."""
    checks = Checks()
    engine = checks.check("environment", check_environment, str)
    filled = checks.check("settings", config.with_defaults_filled, lambda _: "valid")
    if engine is None or filled is None:
        checks.skip("hardware", "model", "calibration", "output", reason="an earlier check failed")
        return checks
    checks.check("hardware", hardware, describe_hardware)
    loaded = checks.check(
        "model",
        lambda: load(filled.model_path, dtype="auto", show_progress=show_progress),
        lambda pair: describe_model(*pair),
    )
    if loaded is None:
        checks.skip("calibration", reason="needs the model's tokenizer")
    else:
        checks.check("calibration", lambda: _plan(*loaded, filled), _describe, settings="settings")
    checks.check("output", lambda: check_output(filled, "quantize"), str)
    # Nothing is written into it.
    release(Path(str(filled.output)))
    return checks


def _plan(model: "Model", tokenizer: "Tokenizer", config: QuantizeConfig) -> Plan:
    from efficientai_toolkit._engine.core import core

    return Plan(**json.loads(core.quantize.validate(model, tokenizer, config.to_json())))


def _describe(plan: Plan) -> str:
    text = f"{plan.tokens:,} tokens in {plan.sequences:,} sequences" if plan.sequences else "none"
    return f"{text}; {plan.layers:,} layers to quantize"
