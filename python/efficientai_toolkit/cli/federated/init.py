"""``federated-learning:init``: write an app for ``flwr run``."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.federated.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated import FederatedConfig

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the folder and the options of :class:`FederatedConfig`."""
    parser.add_argument("folder", metavar="DIR", help="new folder of the app")
    add_config(parser, FederatedConfig, title="federated learning", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Write the app."""
    from efficientai_toolkit.federated.apps import to_run_config
    from efficientai_toolkit.federated.template import write_app

    folder = Path(args.folder).expanduser()
    if folder.exists() and any(folder.iterdir()):
        message = f"{folder} is not empty; choose another folder"
        raise ConfigError(message)
    write_app(folder, to_run_config(build_config(args, FederatedConfig)))
    out.line(f"{folder}: run it with `flwr run {folder}` on a server of `federated-learning:server`")
    out.result({"folder": str(folder)})
    return 0
