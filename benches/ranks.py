"""Ranks found by `analyze` beside the best fixed rank: validation loss and parameters after equal steps.

uv run --group dev python benches/ranks.py --data my_data --iters 300 --lr 5e-3 --eval-batches 0
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.analysis import AnalysisConfig, ShortRun, analyze
from efficientai_toolkit.lora.analysis.candidates import GAINS, REFERENCE_RANKS, compute_neutral_alpha
from efficientai_toolkit.lora.runner import Runner

LOSS, PARAMETERS = 1.01, 0.6
"""What is claimed: the loss within 1 % of the best fixed rank, with at most 60 % of its parameters."""


def main() -> int:
    """Analyze, train with what was found and with every fixed rank, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for every figure")
    parser.add_argument(
        "--scales", action="store_true", help="give every fixed rank the scales too that the analysis tries"
    )
    add_config(parser, AnalysisConfig, title="analysis", with_file=False)
    add_config(parser, TrainingConfig, title="the run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = replace(build_config(args, TrainingConfig), output=str(Path(folder) / "analysis"))
        analysis = analyze(base, build_config(args, AnalysisConfig, with_file=False), on_run=tell)
        runner = Runner(evaluations=1)
        found = measure(runner, "analyze", analysis.choice.apply(base))
        rows = [measure(runner, f"rank {r}", replace(base, lora_rank=r)) for r in REFERENCE_RANKS]
        holds = verdict("the best fixed rank", rows, found)
        for rank, gain in itertools.product(REFERENCE_RANKS, GAINS if args.scales else ()):
            rows.append(measure(runner, f"rank {rank}, scale x{gain:g}", with_gain(base, rank, gain)))
        if args.scales:
            verdict("the best fixed rank of any scale", rows, found)
    if args.json:
        figures = {"found": found, "choice": asdict(analysis.choice), "fixed": rows}
        figures["short_run_steps"] = sum(run.steps for run in analysis.runs)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if holds else 1


def with_gain(base: TrainingConfig, rank: int, gain: float) -> TrainingConfig:
    """One rank for all layers with a scale that the analysis may choose."""
    alpha = compute_neutral_alpha(base) * gain
    return replace(base, lora_rank=rank, use_rslora=True, lora_alpha=alpha)


def measure(runner: Runner, name: str, config: TrainingConfig) -> dict[str, Any]:
    """Train to the end; what it needed and achieved."""
    folder = Path(str(config.output)).with_name("run")
    metrics = runner.train(config, folder, lambda _place, _loss: None).metrics
    shutil.rmtree(folder)
    row = {"name": name, "parameters": metrics["trainable_parameters"], "loss": metrics["loss_after"]}
    print(f"{name:<22}{row['parameters']:>12,} parameters   loss {row['loss']:.4f}", flush=True)
    return row


def tell(run: ShortRun) -> None:
    """One line per short run."""
    candidate, loss = run.candidate, run.reason or f"loss {run.loss:.4f}"
    text = f"{candidate.form}, scale x{candidate.gain:g}, {candidate.parameters:,} parameters"
    print(f"  {run.steps} steps: {text}   {loss}", flush=True)


def verdict(title: str, rows: list[dict[str, Any]], found: dict[str, Any]) -> bool:
    """Print both ratios to the row with the lowest loss; whether both are as claimed."""
    best = min(rows, key=lambda row: row["loss"])
    loss, size = found["loss"] / best["loss"], found["parameters"] / best["parameters"]
    holds = loss <= LOSS and size <= PARAMETERS
    outcome = "holds" if holds else "fails"
    print(f"{title} is {best['name']}: loss x{loss:.4f}, parameters x{size:.3f}, {outcome}", flush=True)
    return holds


if __name__ == "__main__":
    raise SystemExit(main())
