"""``kernels``: how fast each operation runs, beside what the machine allows."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit import kernels
from efficientai_toolkit.cli.output import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Declare nothing beyond the common options."""


def run(args: Namespace, out: Output) -> int:  # noqa: ARG001
    """Print the report."""
    out.note("measuring, for a few seconds …")
    report = kernels.report()
    out.line(str(report))
    out.result(asdict(report))
    return 0
