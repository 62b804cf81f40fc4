"""``lora-finetuning-mlx:compare``: compare fine-tuning methods."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

from efficientai_toolkit._base.config import list_options
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.callbacks import Event, Started, Step, event_to_json
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.progress import show
from efficientai_toolkit.cli.shared.tracking import add_tracking, create_trackers
from efficientai_toolkit.cli.shared.training import GROUPS, build_training_config
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.comparison import ComparisonConfig, Measurement, compare
from efficientai_toolkit.study.table import format_table

_LINES = 4
"""Number of progress lines per method."""


_COLUMNS: dict[str, Callable[[Measurement], str]] = {
    "method": lambda row: row.method,
    "loss": lambda row: f"{row.loss_before:.3f} → {row.loss_after:.3f}",
    # Preferences have none.
    "perplexity": lambda row: (
        "–" if row.perplexity_after is None else f"{row.perplexity_before:,.1f} → {row.perplexity_after:,.1f}"
    ),
    "time": lambda row: f"{row.seconds:,.1f} s",
    "tok/s": lambda row: f"{row.tokens_per_second:,.0f}",
    "memory": lambda row: format_size((row.peak_memory_gb or 0) * 1e9),
    "on disk": lambda row: format_size(row.disk_bytes or 0),
    "trained": lambda row: f"{row.trainable_parameters:,}",
}
"""Columns of the table of successful methods."""

ESSENTIAL = (
    "model_path", "data", "output", "methods", "tolerance", "epochs", "lr", "batch_size", "lora_rank",
    "resume",
)  # fmt: skip
"""What most comparisons set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the comparison and of the run."""
    add_config(parser, ComparisonConfig, title="comparison", with_file=False)
    add_config(parser, TrainingConfig, title="run, the same for every method", groups=GROUPS)
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Print the table and the recommendation; return 2 if every method failed."""
    config = build_config(args, ComparisonConfig, with_file=False)
    training = _build_training_config(args, config)
    comparison = compare(
        training,
        config,
        on_event=_progress(args, out),
        on_result=lambda row: _tell_failure(args, out, row),
        callback=create_trackers(args),
    )
    out.note()
    out.line(format_table([row for row in comparison.rows if row.error is None], _COLUMNS))
    for row in comparison.rows:
        if row.error is not None:
            out.line(f"{row.method} failed: {row.error}")
    choice = comparison.recommendation
    out.line(f"\nrecommended: {choice.method or 'none'}\n  {choice.reason}")
    out.line(f"saved in {comparison.output}")
    out.result(asdict(comparison))
    return 0 if any(row.error is None for row in comparison.rows) else 2


def _build_training_config(args: Namespace, config: ComparisonConfig) -> TrainingConfig:
    """Build the configuration of the runs, whose settings may suit some of the methods only."""
    try:
        return build_training_config(args, TrainingConfig)
    except ConfigError:
        methods = next(option.choices for option in list_options(TrainingConfig) if option.name == "method")
        for method in config.methods:
            if method in methods and "method" not in args:
                with suppress(ConfigError):
                    changed = Namespace(**{**vars(args), "method": method})
                    return build_training_config(changed, TrainingConfig)
        raise


def _tell_failure(args: Namespace, out: Output, row: Measurement) -> None:
    if row.error is not None:
        failure = {"event": "failed", "method": row.method, "error": row.error}
        show(args, out, event=lambda: failure, line=lambda: f"{row.method} failed: {row.error}")


def _progress(args: Namespace, out: Output) -> Callable[[str, Event], None]:
    return lambda method, event: show(
        args,
        out,
        event=lambda: {"method": method, **json.loads(event_to_json(event))},
        line=lambda: _line(method, event),
    )


def _line(method: str, event: Event) -> str | None:
    match event:
        case Started():
            return f"{method}: {event.trainable_parameters:,} parameters, {event.steps:,} steps"
        case Step() if event.step % max(event.steps // _LINES, 1) == 0:
            return f"{method}: {event.step}/{event.steps}  loss {event.loss:.3f}"
        case _:
            return None
