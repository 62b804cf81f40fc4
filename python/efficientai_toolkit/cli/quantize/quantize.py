"""``quantized-model-benchmarks:quantize``: quantize a model."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.quantize.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.shared.resume import build_resume_command
from efficientai_toolkit.cli.shared.tracking import add_tracking, choose_callbacks
from efficientai_toolkit.quantize import QuantizeConfig, QuantizeResult, quantize

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`QuantizeConfig`."""
    add_config(parser, QuantizeConfig, title="quantization", groups=GROUPS)
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Quantize, and print size and path of the result."""
    given = build_config(args, QuantizeConfig)
    callbacks = choose_callbacks(args)
    config = given.with_defaults_filled()
    out.note(
        format_pairs(
            [
                ("model", given.model_path or "the embedded model"),
                ("technique", _technique(config)),
                (
                    "calibration",
                    given.calibration or ("bundled instructions" if config.calibration else "none"),
                ),
                ("output", str(config.output)),
            ]
        )
    )
    try:
        result = quantize(config, callback=callbacks, show_progress=not out.quiet)
    except KeyboardInterrupt:
        resume = build_resume_command(
            args.argv, output=None if given.output else Path(str(config.output)), resumed=given.resume
        )
        message = f"interrupted; the finished blocks are saved, continue with:\n  {resume}"
        raise KeyboardInterrupt(message) from None
    _print(result, out)
    return 0


def _technique(config: QuantizeConfig) -> str:
    if config.technique != "mixed":
        size = (
            f"{config.bits} bits in groups of {config.group_size}" if config.mode == "affine" else config.mode
        )
        return f"{config.technique}, {size}"
    size = f"{config.target_bpw:g} bits per weight" if config.target_bpw else f"{config.target_bytes} bytes"
    return f"mixed precision, {size}, then {config.rounding}"


def _print(result: QuantizeResult, out: Output) -> None:
    pairs = [
        ("size", f"{format_size(result.size_bytes)}, {result.bits_per_weight:.2f} bits per weight"),
        ("in 16 bits", format_size(result.parameters * 2)),
        ("time", f"{result.seconds:.1f} s"),
        ("peak memory", f"{result.peak_memory_gb:.2f} GB"),
    ]
    if result.requantization_error is not None:
        pairs.append(
            ("cost of requantizing", f"{result.requantization_error:.2e} of the squares of the weights")
        )
    if result.divergence:
        before, after = result.divergence
        pairs.append(("held-out divergence", f"{before:.4f} → {after:.4f} nats per token"))
    if result.uncalibrated:
        pairs.append(("without calibration", f"{len(result.uncalibrated)} layers, rounded to nearest"))
    pairs.append(("model saved in", str(result.output)))
    out.line(format_pairs(pairs))
    out.result(json.loads(json.dumps(asdict(result), default=str)))
