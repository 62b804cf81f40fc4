"""``federated-learning:client``: start Flower's SuperNode with the rows of this machine."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.exceptions import ConfigError, DatasetError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of a client."""
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="address of the server")
    parser.add_argument(
        "--data", required=True, metavar="PATH", help="training rows: a folder with train.jsonl, or a file"
    )
    parser.add_argument(
        "--model-path", metavar="TEXT", help="the model on this machine (default: as the run says)"
    )
    parser.add_argument(
        "--number", type=int, default=0, metavar="N", help="number of this client, from 0 (default: 0)"
    )
    parser.add_argument("--authority", metavar="FILE", help="ca.crt of the keys of the server")
    parser.add_argument("--key", metavar="FILE", help="private key of this client")


def run(args: Namespace, out: Output) -> int:
    """Run the SuperNode until it is stopped."""
    from efficientai_toolkit.federated import flower
    from efficientai_toolkit.federated.keys import check_certificate
    from efficientai_toolkit.federated.processes import Link, find_free_port, run_program

    host, _, port = args.server.rpartition(":")
    if not host or not port.isdecimal():
        message = f"--server must be HOST:PORT, not {args.server!r}"
        raise ConfigError(message)
    data = Path(args.data).expanduser().absolute()
    if not data.exists():
        message = f"there is no folder or file {data}"
        raise DatasetError(message)
    paths = {name: _find(getattr(args, name), f"--{name}") for name in ("authority", "key")}
    if paths["authority"] is not None:
        check_certificate(paths["authority"])
    settings: dict[str, Any] = {
        "partition-id": args.number, "data": str(data),
    }  # fmt: skip
    if args.model_path is not None:
        settings["model"] = args.model_path
    command = Link(host=host, port=int(port)).client_command(
        settings, port=find_free_port(), authority=paths["authority"], key=paths["key"]
    )
    out.note(f"client {args.number} with {data}, for the server {args.server}")
    return run_program(command, flower.quiet_environment())


def _find(text: str | None, option: str) -> Path | None:
    if text is None:
        return None
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        message = f"{option}: there is no file {path}"
        raise ConfigError(message)
    return path
