"""What several commands share."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.cli.shared.workspace import open_workspace

if TYPE_CHECKING:
    from efficientai_toolkit.registry.registry import Registry
    from efficientai_toolkit.registry.version import ModelVersion

REFERENCE = "NAME/NUMBER, NAME@ALIAS, or NAME for its production version, else its latest"


def add_reference(parser: ArgumentParser, help: str = REFERENCE) -> None:  # noqa: A002
    """Add the version that a command is about."""
    parser.add_argument("version", metavar="VERSION", help=help)


def open_registry(path: str) -> "Registry":
    """Open the registry of a workspace that exists."""
    from efficientai_toolkit.registry.registry import Registry

    return Registry(open_workspace(path))


def to_values(version: "ModelVersion") -> dict[str, Any]:
    """Return a version for ``--json``."""
    return {"reference": version.reference, **asdict(version)}


def describe_version(version: "ModelVersion") -> list[tuple[str, str]]:
    """Return the lines about a version."""
    lines = [
        ("version", version.reference),
        ("aliases", ", ".join(version.aliases)),
        ("kind", version.kind),
        ("folder", str(version.path)),
        ("size", f"{format_size(version.size_bytes)} in {version.files} files"),
        ("fingerprint", version.fingerprint),
        ("created", version.created),
        ("made from", version.parent or version.base or ""),
        ("data", version.data_fingerprint or ""),
        ("description", version.description),
        ("tags", ", ".join(f"{name}={value}" for name, value in version.tags.items())),
    ]
    return [(name, text) for name, text in lines if text]


def format_value(value: object) -> str:
    """Format a metric or setting."""
    if value is None:
        return "–"
    return (
        f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )


def read_pair(text: str) -> tuple[str, str]:
    """Split ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not equals:
        message = f"must be NAME=VALUE, not {text!r}"
        raise ArgumentTypeError(message)
    return name, value


def read_metric(text: str) -> tuple[str, float]:
    """Split ``NAME=NUMBER``."""
    name, value = read_pair(text)
    try:
        return name, float(value)
    except ValueError:
        message = f"must be NAME=NUMBER, not {text!r}"
        raise ArgumentTypeError(message) from None
