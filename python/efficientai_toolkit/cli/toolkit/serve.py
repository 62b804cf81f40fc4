"""``serve``: serve models over HTTP."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.serve import ESSENTIAL, GROUPS, run_server
from efficientai_toolkit.server.config import ServeConfig

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`ServeConfig`."""
    add_config(parser, ServeConfig, title="models and address", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    return run_server(build_config(args, ServeConfig), out)
