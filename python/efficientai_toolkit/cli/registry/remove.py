"""``registry:remove``: remove a version, or take an alias away."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.registry.options import add_reference, open_registry, to_values
from efficientai_toolkit.cli.shared.workspace import add_workspace


def add_arguments(parser: ArgumentParser) -> None:
    """Add what goes, and how far."""
    add_reference(parser, "NAME/NUMBER; with NAME@ALIAS only the alias is taken away")
    parser.add_argument(
        "--force",
        action="store_true",
        help="also if an alias points to it, or other versions were made from it",
    )
    parser.add_argument(
        "--delete-files", action="store_true", help="delete its folder too, which must be in the workspace"
    )
    add_workspace(parser)


def run(args: Namespace, out: Output) -> int:
    """Remove it."""
    registry = open_registry(args.workspace)
    name, at, alias = args.version.partition("@")
    if at:
        registry.remove_alias(name, alias)
        out.line(f"took {args.version} away")
        out.result({"name": name, "alias": alias})
        return 0
    version = registry.remove(args.version, force=args.force, delete_files=args.delete_files)
    kept = "deleted" if args.delete_files else "left"
    out.line(f"removed {version.reference}; {kept} {version.path}")
    out.result(to_values(version) | {"deleted_files": args.delete_files})
    return 0
