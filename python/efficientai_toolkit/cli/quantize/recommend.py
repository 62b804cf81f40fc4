"""``quantized-model-benchmarks:recommend``: choose a variant from the results of a benchmark."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs, wrap_paragraph
from efficientai_toolkit.quantize.suite.recommendation import RecommendationConfig

ESSENTIAL = (
    "results", "max_memory", "max_size", "max_loss", "max_kl", "min_speed", "prefer", "model", "json",
    "quiet", "debug",
)  # fmt: skip
"""What a choice depends on."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the folder of the results and the options of :class:`RecommendationConfig`."""
    parser.add_argument("results", metavar="RESULTS", help="output folder of `:run`, or its results.json")
    add_config(parser, RecommendationConfig, title="constraints", with_file=False)


def run(args: Namespace, out: Output) -> int:
    """Print the recommendation; return 2 if no variant meets the constraints."""
    from efficientai_toolkit.quantize.suite.recommendation import recommend

    found = recommend(args.results, build_config(args, RecommendationConfig, with_file=False))
    row = found.row
    out.line(f"recommended: {'none' if row is None else row.variant}")
    out.line(wrap_paragraph(found.reason))
    if row is not None and row.settings:
        settings = ", ".join(f"{name} {value}" for name, value in row.settings.items())
        out.line(wrap_paragraph(f"settings: {settings}"))
    if row is not None and row.path is not None:
        out.line(f"  model: {row.path}")
    if found.excluded:
        out.line("excluded:")
        out.line(format_pairs([(f"  {name}", reason) for name, reason in found.excluded.items()]))
    out.result(json.loads(json.dumps(asdict(found), default=str)))
    return 0 if row is not None else 2
