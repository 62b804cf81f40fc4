"""``cpu-model-compression:evaluate``: measure a model, alone or beside a reference."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.compress.quality import QualityConfig

ESSENTIAL = (
    "model_path", "reference", "heldout", "sequences", "length", "task", "items", "json", "quiet", "debug",
)  # fmt: skip
"""What an evaluation depends on."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the models and the options of :class:`QualityConfig`."""
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model-path",
        metavar="TEXT",
        help="folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)",
    )
    group.add_argument(
        "--reference", metavar="TEXT", help="folder or hub id of the original model (default: none)"
    )
    add_config(parser, QualityConfig, title="quality")


def run(args: Namespace, out: Output) -> int:
    """Print one line per quantity; return 2 if the model cannot be measured."""
    from efficientai_toolkit.compress.comparison import compare

    config = build_config(args, QualityConfig)
    models = [args.model_path] if args.reference is None else [args.reference, args.model_path]
    row = compare(models, config, show_progress=not out.quiet)[-1]
    out.result(json.loads(json.dumps(asdict(row), default=str)))
    if row.error is not None:
        out.line(f"{row.model} failed: {row.error}")
        return 2
    has_reference = args.reference is not None
    loss, difference = "", ""
    if has_reference:
        loss = f" ({row.perplexity_increase:+.2%}, interval {row.loss_low:+.2%} to {row.loss_high:+.2%})"
    if has_reference and row.accuracy_difference is not None:
        difference = (
            f" ({row.accuracy_difference:+.1%}, interval {row.accuracy_low:+.1%} to "
            f"{row.accuracy_high:+.1%}, "
            f"p {row.accuracy_p:.3f})"
        )
    pairs = [
        ("parameters", f"{row.parameters:,}, {row.bits_per_weight:.2f} bits each"),
        ("perplexity", f"{row.perplexity:,.4f}{loss}"),
    ]
    if has_reference:
        pairs += [
            ("mean KL", f"{row.mean_kl:.4g} nats, 99th percentile {row.p99_kl:.4g}"),
            ("top-token agreement", f"{row.top_agreement:.2%} of {row.positions:,} positions"),
        ]
    if row.accuracy is not None:
        pairs.append(("accuracy", f"{row.accuracy:.1%} of {row.questions:,} questions{difference}"))
    out.line(format_pairs(pairs))
    return 0
