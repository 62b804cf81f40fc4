"""``lora-finetuning-mlx:analyze``: a rank for each layer."""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict

from efficientai_toolkit.cli.commands import build_command
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.progress import show
from efficientai_toolkit.cli.shared.training import build_training_config
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.analysis import Analysis, AnalysisConfig, ShortRun, analyze


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the analysis and of the run."""
    add_config(parser, AnalysisConfig, title="analysis", with_file=False)
    add_config(parser, TrainingConfig, title="the run; --output and --overwrite concern the analysis")


def run(args: Namespace, out: Output) -> int:
    """Print one line per short run, then the ranks."""
    config = build_config(args, AnalysisConfig, with_file=False)
    if args.progress == "bar":
        out.note(f"looking at the data and the gradient of {config.batches} batches")
    analysis = analyze(build_training_config(args, TrainingConfig), config, on_run=_progress(args, out))
    out.note()
    out.line(_summary(analysis))
    out.result(asdict(analysis))
    return 0


def _progress(args: Namespace, out: Output) -> Callable[[ShortRun], None]:
    return lambda run: show(
        args, out, event=lambda: {"event": "short_run", **asdict(run)}, line=lambda: _line(run)
    )


def _line(run: ShortRun) -> str:
    candidate = run.candidate
    outcome = run.reason if run.loss is None else f"loss {run.loss:.4f}"
    return (
        f"round {run.round}, {run.steps} steps  {outcome}  ({run.seconds:.1f} s)  "
        f"{candidate.parameters:,} parameters, {candidate.form}, gain {candidate.gain:g}"
    )


def _summary(analysis: Analysis) -> str:
    data, choice = analysis.data, analysis.choice
    smaller = data["text_bytes"] / max(data["compressed_bytes"], 1)
    repeated = f"{data['duplicates']:,} rows repeat an earlier one, {data['near_duplicates']:,} almost"
    rows = [
        ("data", f"{data['rows']:,} rows, {data['tokens']:,} tokens; {repeated}"),
        (
            "  to learn",
            f"at most {analysis.information_bits:,.0f} bits: {data['entropy']:.2f} per token by frequency, "
            f"texts {smaller:.1f} times smaller when compressed",
        ),
        ("chosen", f"{choice.form}, {choice.parameters:,} parameters, a mean rank of {choice.mean_rank:.1f}"),
    ]
    rows += [(f"  {name}", ranks) for name, ranks in _by_name(choice.ranks).items()]
    rows.append(("saved in", str(analysis.output)))
    command = shlex.join([*build_command("lora", "train"), "--config", str(analysis.output / "ranked.yaml")])
    return f"{format_pairs(rows)}\n\ntrain with it\n  {command}"


def _by_name(ranks: dict[str, int]) -> dict[str, str]:
    """Group the ranks of all blocks by the last part of the layer name."""
    names: dict[str, list[str]] = {}
    for path, rank in ranks.items():
        names.setdefault(path.rpartition(".")[2], []).append(str(rank))
    return {name: " ".join(values) for name, values in names.items()}
