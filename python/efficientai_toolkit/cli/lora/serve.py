"""``lora-finetuning-mlx:serve``: serve a model with its adapters over HTTP."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.serve import ESSENTIAL as COMMON
from efficientai_toolkit.cli.shared.serve import GROUPS, run_server
from efficientai_toolkit.server.config import ServeConfig

ESSENTIAL = ("adapter_path", *(name for name in COMMON if name != "workspace"))
"""What most servers set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the adapter and the options of :class:`ServeConfig`."""
    parser.add_argument(
        "--adapter-path",
        metavar="TEXT",
        help="folder of an adapter of the first model, named MODEL:FOLDER in requests; --adapter chooses "
        "the name",
    )
    add_config(parser, ServeConfig, title="models and address", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    config = build_config(args, ServeConfig)
    if args.adapter_path is not None:
        name = Path(args.adapter_path).expanduser().resolve().name.replace(":", "-")
        config = config.with_values({"adapters": {**config.adapters, name: args.adapter_path}})
    return run_server(config, out)
