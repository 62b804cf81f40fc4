"""``serve:rollback``: serve the version before the last deployment again."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.serve import add_control
from efficientai_toolkit.server.control import rollback


def add_arguments(parser: ArgumentParser) -> None:
    """Add the name and the options of the server."""
    parser.add_argument("name", metavar="NAME", help="served name")
    add_control(parser)


def run(args: Namespace, out: Output) -> int:
    """Ask the server, which answers when the version is loaded."""
    done = rollback(args.name, url=args.url)
    out.line(f"{args.url} serves {done['name']} from {done['path']}")
    out.result(done)
    return 0
