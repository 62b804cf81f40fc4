"""``quantized-model-benchmarks:select``: choose a few rows of a data set that stand for all."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.progress import choose_callback
from efficientai_toolkit.quantize.subset import SubsetConfig, select_subset

ESSENTIAL = (
    "model_path", "data", "fraction", "format", "columns", "output", "overwrite", "seed", "json", "quiet",
)  # fmt: skip
"""What most choices set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`SubsetConfig`."""
    add_config(parser, SubsetConfig, title="subset", with_file=False)


def run(args: Namespace, out: Output) -> int:
    """Choose rows, and print how many and where they are."""
    config = build_config(args, SubsetConfig, with_file=False)
    result = select_subset(config, callback=choose_callback(args), show_progress=not out.quiet)
    out.line(
        format_pairs(
            [
                ("rows", f"{result.chosen:,} of {result.rows:,}"),
                ("tokens", f"{result.chosen_tokens:,} of {result.tokens:,}"),
                ("coverage", f"{result.coverage:.3f} mean similarity of a row to the nearest chosen one"),
                ("time", f"{result.seconds:.1f} s"),
                ("rows saved in", str(result.output)),
            ]
        )
    )
    out.result(json.loads(json.dumps(asdict(result), default=str)))
    return 0
