"""``registry:list``: list registered models, or the versions of one."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit._base.tables import align
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.registry.options import open_registry, to_values
from efficientai_toolkit.cli.shared.workspace import add_workspace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the name."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="list the versions of this model only")
    add_workspace(parser)


def run(args: Namespace, out: Output) -> int:
    """Print a row per version."""
    versions = open_registry(args.workspace).list_versions(args.name)
    rows = [["version", "kind", "aliases", "created", "size"]]
    rows += [
        [
            version.reference,
            version.kind,
            ", ".join(version.aliases),
            version.created,
            format_size(version.size_bytes),
        ]
        for version in versions
    ]
    out.line("\n".join(align(rows, left=4)) if versions else "no models yet; registry:register adds one")
    out.result({"versions": [to_values(version) for version in versions]})
    return 0
