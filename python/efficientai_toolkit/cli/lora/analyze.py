"""``lora-finetuning-mlx:analyze``: a rank for each layer."""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict

from efficientai_toolkit._base.units import format_duration
from efficientai_toolkit.cli.commands import build_command
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.progress import show
from efficientai_toolkit.cli.shared.tracking import add_tracking, create_trackers
from efficientai_toolkit.cli.shared.training import GROUPS, build_training_config
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.analysis import Analysis, AnalysisConfig, ShortRun, analyze

ESSENTIAL = (
    "model_path", "data", "output", "tolerance", "max_rank", "batches", "steps", "epochs", "lr", "batch_size",
)  # fmt: skip
"""What most analyses set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the analysis and of the run."""
    add_config(parser, AnalysisConfig, title="analysis", with_file=False)
    add_config(
        parser, TrainingConfig, title="run (--output and --overwrite concern the analysis)", groups=GROUPS
    )
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Print one line per short run, then the ranks."""
    config = build_config(args, AnalysisConfig, with_file=False)
    if args.progress == "bar":
        out.note(f"reading the data and computing the gradients of {config.batches} batches")
    pace = Pace()
    analysis = analyze(
        build_training_config(args, TrainingConfig),
        config,
        on_run=_progress(args, out, pace),
        on_plan=pace.plan,
        callback=create_trackers(args),
    )
    out.note()
    out.line(_summary(analysis))
    out.result(asdict(analysis))
    return 0


class Pace:
    """Number of short runs and time left; a run takes time in proportion to its steps."""

    def __init__(self) -> None:
        self._planned: list[int] = []
        self._done: list[ShortRun] = []

    def plan(self, steps: list[int]) -> None:
        """Set the steps of all runs that are foreseen."""
        self._planned = steps

    def advance(self, run: ShortRun) -> str:
        """Count a finished run; return its place and the time left."""
        self._done.append(run)
        done, planned = len(self._done), len(self._planned)
        if done >= planned:
            return f"run {done} of about {done}"
        pace = sum(run.seconds for run in self._done) / sum(run.steps for run in self._done)
        left = format_duration(pace * sum(self._planned[done:]))
        return f"run {done} of about {planned}, about {left} left"


def _progress(args: Namespace, out: Output, pace: Pace) -> Callable[[ShortRun], None]:
    return lambda run: show(
        args,
        out,
        event=lambda: {"event": "short_run", **asdict(run)},
        line=lambda: f"{pace.advance(run)}: {_line(run)}",
    )


def _line(run: ShortRun) -> str:
    candidate = run.candidate
    outcome = run.reason if run.loss is None else f"loss {run.loss:.4f}"
    return (
        f"{run.steps} steps  {outcome}  ({run.seconds:.1f} s)  "
        f"{candidate.parameters:,} parameters, {candidate.form}, gain {candidate.gain:g}"
    )


def _summary(analysis: Analysis) -> str:
    data, choice = analysis.data, analysis.choice
    smaller = data["text_bytes"] / max(data["compressed_bytes"], 1)
    repeated = f"{data['duplicates']:,} duplicates, {data['near_duplicates']:,} near-duplicates"
    rows = [
        ("data", f"{data['rows']:,} rows, {data['tokens']:,} tokens; {repeated}"),
        (
            "  information",
            f"at most {analysis.information_bits:,.0f} bits: unigram entropy {data['entropy']:.2f} bits "
            f"per token, compression ratio {smaller:.1f}",
        ),
        ("chosen", f"{choice.form}, {choice.parameters:,} parameters, a mean rank of {choice.mean_rank:.1f}"),
    ]
    rows += [(f"  {name}", ranks) for name, ranks in _by_name(choice.ranks).items()]
    spent = format_duration(sum(run.seconds for run in analysis.runs))
    rows.append(("short runs", f"{len(analysis.runs)} in {spent}"))
    rows.append(("saved in", str(analysis.output)))
    command = shlex.join([*build_command("lora", "train"), "--config", str(analysis.output / "ranked.yaml")])
    return f"{format_pairs(rows)}\n\ntrain with it\n  {command}"


def _by_name(ranks: dict[str, int]) -> dict[str, str]:
    """Group the ranks of all blocks by the last part of the layer name."""
    names: dict[str, list[str]] = {}
    for path, rank in ranks.items():
        names.setdefault(path.rpartition(".")[2], []).append(str(rank))
    return {name: " ".join(values) for name, values in names.items()}
