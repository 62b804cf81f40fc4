"""``cpu-model-compression:validate``: check whether pruning could start."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.compress.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.calibrated import inspect
from efficientai_toolkit.cli.shared.validate import report
from efficientai_toolkit.prune import PruneConfig

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`PruneConfig`."""
    add_config(parser, PruneConfig, title="pruning", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Print the checks; return 2 if one fails."""
    config = build_config(args, PruneConfig)
    checks = inspect(config.with_defaults_filled, "prune", show_progress=not out.quiet)
    return report(checks, out, purpose="prune")
