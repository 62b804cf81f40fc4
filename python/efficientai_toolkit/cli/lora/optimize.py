"""``lora-finetuning-mlx:optimize``: search for hyperparameters."""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from efficientai_toolkit.cli.commands import build_command
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.progress import show
from efficientai_toolkit.cli.shared.resume import build_resume_command
from efficientai_toolkit.cli.shared.tracking import add_tracking, create_trackers
from efficientai_toolkit.cli.shared.training import GROUPS, build_training_config
from efficientai_toolkit.lora import RUNS, TrainingConfig, new_run
from efficientai_toolkit.lora.optimization import OptimizationConfig, OptimizationResult, Trial, optimize

ESSENTIAL = (
    "model_path", "data", "output", "search_space", "trials", "timeout_minutes", "objectives", "sampler",
    "epochs", "resume",
)  # fmt: skip
"""What most searches set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the search and of the run."""
    add_config(parser, OptimizationConfig, title="search", with_file=False)
    add_config(
        parser,
        TrainingConfig,
        title="run (--output, --resume and --overwrite concern the search)",
        groups=GROUPS,
    )
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Print one line per run, then the best settings."""
    config = build_config(args, OptimizationConfig, with_file=False)
    trackers = create_trackers(args)
    given = build_training_config(args, TrainingConfig)
    training = given
    if given.output is None and not given.resume:
        training = given.with_values({"output": str(new_run(Path(RUNS), "search"))})
    try:
        result = optimize(training, config, on_trial=_progress(args, out, config), callback=trackers)
    except KeyboardInterrupt:
        output = None if given.output is not None else Path(str(training.output))
        command = build_resume_command(args.argv, output=output, resumed=given.resume)
        message = f"interrupted: the search is saved; continue with `{command}`"
        raise KeyboardInterrupt(message) from None
    out.note()
    out.line(_summary(result))
    out.result(asdict(result))
    return 0


def _progress(args: Namespace, out: Output, config: OptimizationConfig) -> Callable[[Trial], None]:
    return lambda trial: show(
        args,
        out,
        event=lambda: {"event": "trial", **asdict(trial)},
        line=lambda: _line(trial, config.trials),
    )


def _line(trial: Trial, trials: int) -> str:
    settings = "  ".join(f"{name} {_short(value)}" for name, value in trial.settings.items())
    outcome = trial.reason or trial.state
    if trial.values is not None:
        outcome = ", ".join(f"{name} {_short(value)}" for name, value in trial.values.items())
    # Trials that repeat interrupted ones come on top.
    of = f"/{trials}" if trial.number < trials else ""
    return f"trial {trial.number + 1}{of}  {outcome}  ({trial.seconds:.1f} s)  {settings}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _summary(result: OptimizationResult) -> str:
    states = [trial.state for trial in result.trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed") if s in states)
    rows = [("trials", counts), ("best", f"trial {result.best + 1}")]
    rows += [(f"  {name}", _short(value)) for name, value in result.best_values.items()]
    rows += [(f"  {name}", _short(value)) for name, value in result.best_settings.items()]
    if len(result.best_values) > 1:
        rows.append(("Pareto front", ", ".join(f"trial {number + 1}" for number in result.front)))
    if result.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result.importance.items())
        rows.append(("importance", shares))
    rows.append(("saved in", str(result.output)))
    command = shlex.join([*build_command("lora", "train"), "--config", str(result.output / "best.yaml")])
    return f"{format_pairs(rows)}\n\ntrain with it\n  {command}"
