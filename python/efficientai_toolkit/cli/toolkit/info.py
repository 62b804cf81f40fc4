"""``info``: show the version, the device and its limits."""

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit._base.version import __version__
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.device import HardwareReport, hardware


def add_arguments(parser: ArgumentParser) -> None:
    """Add no options beyond the common ones."""


def run(args: Namespace, out: Output) -> int:  # noqa: ARG001
    """Print the report."""
    report = hardware()
    version, python = __version__, sys.version.split()[0]
    out.line(format_pairs([("version", f"{version} (Python {python})"), *describe_hardware(report)]))
    out.result({"version": version, "python": python, "hardware": asdict(report)})
    return 0


def describe_hardware(report: HardwareReport) -> list[tuple[str, str]]:
    """Return the report as pairs of label and text."""
    rows = [
        ("device", report.backend),
        ("chip", f"{report.chip}, {report.cores} cores"),
        ("instructions", ", ".join(report.isa) or "portable only"),
        ("memory", format_gigabytes(report.memory_bytes)),
        ("mlx", report.mlx_version),
        (
            "limits",
            f"memory {format_gigabytes(report.memory_limit_bytes)}, "
            f"cache {format_gigabytes(report.cache_limit_bytes)}, "
            f"wired {format_gigabytes(report.wired_limit_bytes)}",
        ),
    ]
    if report.note:
        rows.append(("note", report.note))
    return rows


def format_gigabytes(size: int) -> str:
    """Format bytes in units of 10⁹."""
    return f"{size / 1e9:.1f} GB"
