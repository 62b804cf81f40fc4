"""``kernels``: measure the speed of each operation relative to the hardware's peak."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit import kernels
from efficientai_toolkit.cli.output import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Add no options beyond the common ones."""


def run(args: Namespace, out: Output) -> int:  # noqa: ARG001
    """Print the report."""
    out.note("measuring for a few seconds …")
    report = kernels.report()
    out.line(str(report))
    out.result(asdict(report))
    return 0
