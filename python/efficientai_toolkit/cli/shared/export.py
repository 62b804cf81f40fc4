"""``NAMESPACE:export``: write a model in the format of another program."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.progress import choose_callback
from efficientai_toolkit.exports.config import ExportConfig
from efficientai_toolkit.exports.result import ExportResult

GROUPS = {
    "calibration": ("calibration", "calibration_sequences", "sequence_length", "seed"),
    "Core ML": ("minimum_deployment_target", "swift"),
}
"""Fields of :class:`ExportConfig` by title; others concern every export."""

ESSENTIAL = (
    "model_path", "adapter_path", "format", "type", "output", "merge_adapter", "calibration", "verify",
    "overwrite", "json",
)  # fmt: skip
"""What most exports set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`ExportConfig`."""
    add_config(parser, ExportConfig, title="export", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Export, and print sizes, what the verification found and where the result is."""
    from efficientai_toolkit.exports.run import export

    config = build_config(args, ExportConfig)
    _print(export(config, callback=choose_callback(args), show_progress=not out.quiet), out)
    return 0


def _print(result: ExportResult, out: Output) -> None:
    share = result.size_after / max(result.size_before, 1)
    pairs = [
        ("format", f"{result.format}, {result.type}"),
        (
            "size",
            f"{format_size(result.size_before)} → {format_size(result.size_after)} ({share:.0%})",
        ),
        ("tensors", ", ".join(f"{count:,} {name}" for name, count in result.types.items())),
        ("verified", _describe(result)),
        ("time", f"{result.seconds:.1f} s"),
        *(("note", note) for note in result.notes),
        ("saved in", str(result.path)),
    ]
    out.line(format_pairs(pairs))
    out.result(json.loads(json.dumps(asdict(result), default=str)))


def _describe(result: ExportResult) -> str:
    """Describe what the verification found."""
    if result.largest_difference is None:
        return "no"
    if result.exact:
        return f"{result.compared} exact"
    return f"largest difference of {result.compared}: {result.largest_difference:.2e} of the largest"
