"""``federated-learning:init``: write an app for ``flwr run``."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.federated.groups import ESSENTIAL as OF_RUNS
from efficientai_toolkit.cli.federated.groups import GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated import FederatedConfig

__all__ = ["ESSENTIAL", "add_arguments", "run"]

ESSENTIAL = ("app", *(name for name in OF_RUNS if name != "resume"))
"""What most apps set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the folder and the options of :class:`FederatedConfig`."""
    parser.add_argument("--app", metavar="DIR", required=True, help="new folder of the app")
    add_config(parser, FederatedConfig, title="federated learning", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Write the app."""
    from efficientai_toolkit.federated.apps import to_run_config
    from efficientai_toolkit.federated.template import write_app

    folder = Path(args.app).expanduser()
    if folder.exists() and any(folder.iterdir()):
        message = f"{folder} is not empty; choose another folder"
        raise ConfigError(message)
    write_app(folder, to_run_config(build_config(args, FederatedConfig)))
    out.line(f"{folder}: run it with `flwr run {folder}` on a server of `federated-learning:server`")
    out.result({"folder": str(folder)})
    return 0
