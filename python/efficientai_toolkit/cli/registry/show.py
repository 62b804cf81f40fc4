"""``registry:show``: show a version with its origin and the history of aliases."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.registry.options import (
    add_reference,
    describe_version,
    format_value,
    open_registry,
    to_values,
)
from efficientai_toolkit.cli.shared.workspace import add_workspace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the version."""
    add_reference(parser)
    add_workspace(parser)


def run(args: Namespace, out: Output) -> int:
    """Print what is known."""
    registry = open_registry(args.workspace)
    version, *parents = registry.lineage(args.version)
    changes = registry.list_changes(version.name)
    out.line(format_pairs(describe_version(version)))
    for title, values in (("metrics", version.metrics), ("settings", version.settings)):
        if values:
            out.line(f"\n{title}")
            out.line(format_pairs([(f"  {name}", format_value(value)) for name, value in values.items()]))
    if parents:
        out.line(f"\nlineage\n  {' ← '.join([version.reference, *(each.reference for each in parents)])}")
    if changes:
        out.line("\naliases of all versions")
        out.line(
            format_pairs(
                [
                    (f"  {each.time}", f"{each.alias}: {each.before or '–'} → {each.after or '–'}")
                    for each in changes
                ]
            )
        )
    out.result(
        {
            **to_values(version),
            "lineage": [each.reference for each in parents],
            "changes": [asdict(each) for each in changes],
        }
    )
    return 0
