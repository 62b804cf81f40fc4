"""``federated-learning:keys``: make TLS certificates and keys of clients."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.exceptions import ConfigError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of keys."""
    parser.add_argument("--output", metavar="DIR", required=True, help="new folder of the keys")
    parser.add_argument(
        "--hosts", metavar="A,B", required=True, help="names or addresses that clients reach the server by"
    )
    parser.add_argument(
        "--clients", type=int, default=0, metavar="N", help="key pairs of clients (default: 0)"
    )
    parser.add_argument(
        "--days",
        type=int,
        default=365,
        metavar="N",
        help="days that the certificates are valid (default: 365)",
    )


def run(args: Namespace, out: Output) -> int:
    """Make keys, and tell where each belongs."""
    from efficientai_toolkit.federated.keys import make_keys

    if args.days < 1 or args.clients < 0:
        name = "--days" if args.days < 1 else "--clients"
        message = f"{name} must be at least {1 if args.days < 1 else 0}"
        raise ConfigError(message)
    hosts = [host.strip() for host in args.hosts.split(",")]
    keys = make_keys(Path(args.output).expanduser(), hosts, args.clients, days=args.days)
    pairs = [
        ("server keeps", f"{keys.certificate}, {keys.key} and the .pub files"),
        ("every client gets", str(keys.authority)),
    ]
    pairs += [(f"client {number} gets", str(key)) for number, key in enumerate(keys.clients)]
    out.line(format_pairs(pairs))
    out.result(
        {
            "authority": str(keys.authority),
            "certificate": str(keys.certificate),
            "key": str(keys.key),
            "clients": [str(key) for key in keys.clients],
        }
    )
    return 0
