"""Options that several commands share."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from efficientai_toolkit.benchmark import Suite
from efficientai_toolkit.benchmark.store import DEFAULT


def add_suite_options(parser: ArgumentParser) -> None:
    """Add the options that choose cases of a suite."""
    parser.add_argument("--filter", metavar="TEXT", help="only cases whose names contain or fit this (*, ?)")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_argument,
        help="argument of the suite's function; repeat it for more",
    )


def add_results(parser: ArgumentParser) -> None:
    """Add the option for the file of results that a command reads."""
    parser.add_argument(
        "--results", metavar="FILE", type=Path, default=DEFAULT, help=f"file of results (default: {DEFAULT})"
    )


def add_output(parser: ArgumentParser) -> None:
    """Add the option for the file of results that a command adds to."""
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=DEFAULT,
        help=f"SQLite file that the results are added to (default: {DEFAULT})",
    )


def build_suite(args: Namespace) -> Suite:
    """Return the suite that the arguments name."""
    return Suite(source=args.suite, arguments=dict(args.set))


def _argument(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        message = f"must be NAME=VALUE, such as size=256, not {text!r}"
        raise ArgumentTypeError(message)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
