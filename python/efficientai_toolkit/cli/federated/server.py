"""``federated-learning:server``: start Flower's SuperLink for clients on other machines."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.output import Output, format_pairs


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the server."""
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="TEXT", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=9080, metavar="N", help="port (default: 9080)")
    parser.add_argument(
        "--keys",
        metavar="DIR",
        help="folder of federated-learning:keys; needed for an --host that others reach",
    )
    parser.add_argument(
        "--any-client",
        action="store_true",
        help="let clients in without a registered key, outside loopback too",
    )
    parser.add_argument(
        "--home",
        default="federation",
        metavar="DIR",
        help="folder of the state of the server (default: federation)",
    )


def run(args: Namespace, out: Output) -> int:
    """Run the SuperLink until it is stopped."""
    from efficientai_toolkit.federated.keys import Keys
    from efficientai_toolkit.federated.processes import Link, run_program, write_connection

    keys = None if args.keys is None else Keys.in_folder(Path(args.keys).expanduser().absolute())
    link = Link(host=args.host, port=args.port, keys=keys)
    if not link.is_local and not args.any_client:
        link = Link(host=args.host, port=args.port, keys=keys, authenticates=True)
    home = Path(args.home).expanduser().absolute()
    command = link.server_command(database=home / "state.db")
    environment = write_connection(home, link)
    pairs = [
        ("address", link.address),
        ("traffic", "not encrypted" if keys is None else f"encrypted, {keys.certificate}"),
        ("run an app with", f"FLWR_HOME={home} flwr run APP local --stream"),
    ]
    if link.authenticates and keys is not None:
        add = f"FLWR_HOME={home} flwr supernode register"
        pairs += [("let a client in with", f"{add} {key.with_suffix('.pub')} local") for key in keys.clients]
    out.note(format_pairs(pairs))
    return run_program(command, environment)
