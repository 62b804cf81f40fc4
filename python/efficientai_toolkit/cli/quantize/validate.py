"""``quantized-model-benchmarks:validate``: check whether a quantization could start."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.quantize.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.shared.calibrated import inspect
from efficientai_toolkit.cli.shared.validate import report
from efficientai_toolkit.quantize import QuantizeConfig

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`QuantizeConfig`."""
    add_config(parser, QuantizeConfig, title="quantization", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Print the checks; return 2 if one fails."""
    config = build_config(args, QuantizeConfig)
    checks = inspect(config.with_defaults_filled, "quantize", show_progress=not out.quiet)
    return report(checks, out, purpose="quantize")
