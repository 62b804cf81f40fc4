"""``multimodal-clip-finetuning:train``: fine-tune an image–text model."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from efficientai_toolkit.cli.clip.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.resume import build_resume_command
from efficientai_toolkit.cli.shared.tracking import add_tracking, choose_callbacks
from efficientai_toolkit.clip import ClipConfig, ClipResult

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`ClipConfig`."""
    add_config(parser, ClipConfig, title="run", groups=GROUPS)
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Train, and print losses and path of the result."""
    from efficientai_toolkit.clip import ClipTrainer

    given = build_config(args, ClipConfig)
    callbacks = choose_callbacks(args)
    trainer = ClipTrainer(given, callback=callbacks)
    config = trainer.config
    out.note(
        format_pairs(
            [("model", str(config.model_path)), ("data", str(config.data)), ("output", str(config.output))]
        )
    )
    try:
        result = trainer.train()
    except KeyboardInterrupt:
        checkpoints = sorted(Path(str(config.output)).glob("checkpoints/step-*"))
        if not checkpoints:
            message = "interrupted before the first checkpoint; nothing was saved"
            raise KeyboardInterrupt(message) from None
        named = None if given.output is not None else Path(str(config.output))
        resume = build_resume_command(args.argv, output=named, resumed=given.resume)
        message = f"interrupted: {checkpoints[-1]} is saved; continue with `{resume}`"
        raise KeyboardInterrupt(message) from None
    _print(result, config, out)
    return 0


def _print(result: ClipResult, config: ClipConfig, out: Output) -> None:
    rows: list[tuple[str, str]] = []
    if result.loss_before is not None and result.loss_after is not None:
        rows.append(("validation loss", f"{result.loss_before:.4f} → {result.loss_after:.4f}"))
    data = result.metrics["data"]
    rows += [
        ("final training loss", f"{result.final_loss:.4f}"),
        ("data", f"{data['train_images']:,} images, {data['train_texts']:,} texts"),
        ("time", f"{result.training_time:,.1f} s"),
        ("peak memory", f"{result.peak_memory_gb:.2f} GB"),
        ("model saved in" if config.method == "full" else "adapter saved in", str(result.output)),
    ]
    if data["truncated_texts"]:
        rows.insert(3, ("texts", f"{data['truncated_texts']:,} were longer than the context and lost tokens"))
    out.line(format_pairs(rows))
    out.result(json.loads(json.dumps(asdict(result), default=str)))
