"""``cpu-model-compression:distill``: train a student towards a teacher."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.resume import describe_interruption
from efficientai_toolkit.cli.shared.tracking import add_tracking, choose_callbacks
from efficientai_toolkit.cli.shared.training import GROUPS
from efficientai_toolkit.distill import DistillConfig, Distiller
from efficientai_toolkit.lora import TrainingConfig, TrainingResult

ESSENTIAL = (
    "teacher", "loss", "on_policy", "teacher_cache", "model_path", "data", "output", "method", "lr", "resume",
)  # fmt: skip
"""What most runs set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`DistillConfig` and of the training."""
    add_config(parser, DistillConfig, title="distillation", with_file=False)
    add_config(parser, TrainingConfig, title="run (--model-path is the student)", groups=GROUPS)
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Distil, and print losses and path of the result."""
    config = build_config(args, DistillConfig, with_file=False)
    given = build_config(args, TrainingConfig)
    callbacks = choose_callbacks(args)
    distiller = Distiller(given, config, callback=callbacks, show_progress=not out.quiet)
    out.note(
        format_pairs(
            [
                ("teacher", str(config.teacher)),
                ("student", f"{given.model_path or 'the embedded model'}, {given.method}"),
                ("data", given.data or "bundled instructions"),
                ("loss", config.loss),
                ("output", str(distiller.config.output)),
            ]
        )
    )
    try:
        result = distiller.train()
    except KeyboardInterrupt:
        message = describe_interruption(
            args.argv,
            Path(str(distiller.config.output)),
            named=given.output is not None,
            resumed=given.resume,
        )
        raise KeyboardInterrupt(message) from None
    _print(result, distiller.config, out)
    return 0


def _print(result: TrainingResult, config: TrainingConfig, out: Output) -> None:
    metrics = result.metrics
    rows: list[tuple[str, str]] = []
    before, after = metrics.get("loss_before"), metrics.get("loss_after")
    if before is not None and after is not None:
        rows.append(("validation loss", f"{before:.4f} → {after:.4f}"))
    is_model = config.method == "full" or config.qat_bits is not None
    rows += [
        ("final training loss", f"{result.final_loss:.4f}"),
        (
            "trained",
            f"{metrics['trained_tokens']:,} tokens in {result.training_time:,.1f} s, "
            f"{metrics['tokens_per_second']:,.0f} tok/s",
        ),
        ("peak memory", format_size(result.peak_memory_gb * 1e9)),
        ("model saved in" if is_model else "adapter saved in", str(result.adapter_path)),
    ]
    out.line(format_pairs(rows))
    out.result(
        {
            "output": str(result.adapter_path),
            "final_loss": result.final_loss,
            "training_time": result.training_time,
            "peak_memory_gb": result.peak_memory_gb,
            "metrics": metrics,
        }
    )
