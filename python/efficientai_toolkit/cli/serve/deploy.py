"""``serve:deploy``: serve another version of a model."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.serve import add_control, split_pair
from efficientai_toolkit.server.control import deploy


def add_arguments(parser: ArgumentParser) -> None:
    """Add the version and the options of the server."""
    parser.add_argument(
        "version", metavar="NAME=PATH", type=split_pair, help="served name, and folder of the new version"
    )
    add_control(parser)


def run(args: Namespace, out: Output) -> int:
    """Ask the server, which answers when the version is loaded."""
    name, path = args.version
    done = deploy(name, path, url=args.url)
    out.line(f"{args.url} serves {done['name']} from {done['path']}")
    out.result(done)
    return 0
