"""``cpu-model-compression:prune``: prune a model."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from efficientai_toolkit.cli.compress.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.resume import build_resume_command
from efficientai_toolkit.cli.shared.tracking import add_tracking, choose_callbacks
from efficientai_toolkit.prune import PruneConfig, PruneResult, prune
from efficientai_toolkit.prune.config import STRUCTURED

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`PruneConfig`."""
    add_config(parser, PruneConfig, title="pruning", groups=GROUPS)
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Prune, and print sparsity and path of the result."""
    given = build_config(args, PruneConfig)
    callbacks = choose_callbacks(args)
    config = given.with_defaults_filled()
    out.note(
        format_pairs(
            [
                ("model", given.model_path or "the embedded model"),
                ("method", f"{config.method}, {config.pattern}"),
                (
                    "calibration",
                    given.calibration or ("bundled instructions" if config.calibration else "none"),
                ),
                ("output", str(config.output)),
            ]
        )
    )
    try:
        result = prune(config, callback=callbacks, show_progress=not out.quiet)
    except KeyboardInterrupt:
        if config.pattern in STRUCTURED:
            message = "interrupted; nothing was saved"
            raise KeyboardInterrupt(message) from None
        resume = build_resume_command(
            args.argv, output=None if given.output else Path(str(config.output)), resumed=given.resume
        )
        message = f"interrupted; the finished blocks are saved, continue with:\n  {resume}"
        raise KeyboardInterrupt(message) from None
    _print(result, out)
    return 0


def _removed(result: PruneResult) -> list[str]:
    """Return a line for each kind of part that was removed."""
    total = len(result.blocks)
    removed = [number for number, block in enumerate(result.blocks) if block.removed]
    groups = max(len(block.removed_groups) for block in result.blocks)
    channels = max(len(block.removed_channels) for block in result.blocks)
    lines: list[str] = []
    if removed:
        lines.append(f"{len(removed)} of {total} blocks: {', '.join(map(str, removed))}")
    if groups:
        lines.append(f"{groups} groups of heads of each of {total - len(removed)} blocks")
    if channels:
        lines.append(f"{channels:,} channels of each of {total - len(removed)} blocks")
    if result.removed_hidden:
        lines.append(f"{len(result.removed_hidden):,} channels between the blocks")
    return lines


def _print(result: PruneResult, out: Output) -> None:
    if result.blocks:
        pairs = [("removed", line) for line in _removed(result)]
        pairs.append(("parameters", f"{result.parameters:,} of {result.parameters_before:,}"))
    else:
        pairs = [
            ("sparsity", f"{result.sparsity:.1%} of the weights of {len(result.layers)} layers are zero"),
            ("parameters", f"{result.nonzero:,} of {result.parameters:,} are not zero"),
        ]
    if result.output_error is not None:
        pairs.append(("output error", f"{result.output_error:.2%} of the squares, mean of the layers"))
    pairs += [
        ("time", f"{result.seconds:.1f} s"),
        ("peak memory", f"{result.peak_memory_gb:.2f} GB"),
        ("model saved in", str(result.output)),
    ]
    out.line(format_pairs(pairs))
    out.result(json.loads(json.dumps(asdict(result), default=str)))
