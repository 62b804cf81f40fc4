"""``registry:promote``: let an alias point to a version."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.registry.options import add_reference, open_registry, to_values
from efficientai_toolkit.cli.shared.workspace import add_workspace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the version, the alias and the conditions."""
    add_reference(parser, "NAME/NUMBER, or NAME@ALIAS, such as chat@candidate")
    parser.add_argument("--alias", metavar="ALIAS", default="production", help="alias (default: production)")
    for word in ("lower", "higher"):
        parser.add_argument(
            f"--if-{word}",
            metavar="METRIC",
            help=f"only if this metric is {word} than that of the version the alias points to now",
        )
    add_workspace(parser)


def run(args: Namespace, out: Output) -> int:
    """Move the alias."""
    version = open_registry(args.workspace).promote(
        args.version, alias=args.alias, if_lower=args.if_lower, if_higher=args.if_higher
    )
    out.line(f"{version.name}@{args.alias} is {version.reference}")
    out.result(to_values(version))
    return 0
