"""``registry:compare``: set versions side by side."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit._base.tables import align
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.registry.options import REFERENCE, format_value, open_registry
from efficientai_toolkit.cli.shared.workspace import add_workspace

_WIDEST = 40
"""Most characters of a setting in a table."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the versions."""
    parser.add_argument("versions", metavar="VERSION", nargs="+", help=f"two or more: {REFERENCE}")
    add_workspace(parser)


def run(args: Namespace, out: Output) -> int:
    """Print a column per version."""
    found = open_registry(args.workspace).compare(*args.versions)
    rows = [["", *found.versions], ["size", *map(format_size, found.sizes)]]
    rows.append(["data", *(format_value(data and data[:12]) for data in found.data)])
    for values in (found.metrics, found.settings):
        rows += [[name, *(_shorten(format_value(value)) for value in each)] for name, each in values.items()]
    out.line("\n".join(align(rows, left=1)))
    out.result(asdict(found))
    return 0


def _shorten(text: str) -> str:
    return text if len(text) <= _WIDEST else f"…{text[1 - _WIDEST :]}"
