"""Training, and searches and comparisons of trainings."""

from dataclasses import asdict
from typing import Any

from efficientai_toolkit.callbacks.events import Event
from efficientai_toolkit.distill.config import DistillConfig
from efficientai_toolkit.distill.run import Distiller
from efficientai_toolkit.jobs.work.reporting import Report, report_to
from efficientai_toolkit.lora.analysis import run as analysis
from efficientai_toolkit.lora.analysis.config import AnalysisConfig
from efficientai_toolkit.lora.analysis.short_run import ShortRun
from efficientai_toolkit.lora.comparison import run as comparison
from efficientai_toolkit.lora.comparison.config import ComparisonConfig
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.optimization import run as optimization
from efficientai_toolkit.lora.optimization.config import OptimizationConfig
from efficientai_toolkit.lora.result import TrainingResult
from efficientai_toolkit.lora.trainer import MLXTrainer
from efficientai_toolkit.study.job import Emit

_PER_STEP = frozenset({"train_losses", "train_rewards"})


def train(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Fine-tune a model."""
    [settings] = request["configs"]
    return _describe(MLXTrainer(TrainingConfig(**settings), callback=report_to(emit)).train())


def distill(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Train a student towards a teacher."""
    training, distillation = request["configs"]
    trainer = Distiller(
        TrainingConfig(**training),
        DistillConfig(**distillation),
        callback=report_to(emit),
        show_progress=False,
    )
    return _describe(trainer.train())


def _describe(result: TrainingResult) -> dict[str, Any]:
    # The values of each step are events already.
    metrics = {name: value for name, value in result.metrics.items() if name not in _PER_STEP}
    return {
        "final_loss": result.final_loss,
        "training_time": result.training_time,
        "peak_memory_gb": result.peak_memory_gb,
        "perplexity": result.perplexity,
        "adapter_path": str(result.adapter_path),
        "metrics": metrics,
    }


def optimize(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Search for the best settings."""
    training, search = request["configs"]
    config = OptimizationConfig(**search)
    result = optimization.optimize(
        TrainingConfig(**training),
        config,
        on_trial=lambda trial: emit({"event": "trial", "trials": config.trials, **asdict(trial)}),
    )
    return asdict(result) | {"output": str(result.output)}


def compare(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Compare methods."""
    training, compared = request["configs"]
    reports: dict[str, Report] = {}

    def report(method: str, event: Event) -> None:
        if method not in reports:
            reports[method] = report_to(emit, run=method)
        reports[method](event)

    result = comparison.compare(
        TrainingConfig(**training),
        ComparisonConfig(**compared),
        on_event=report,
        on_result=lambda row: emit({"event": "measured", **asdict(row)}),
    )
    return asdict(result) | {"output": str(result.output)}


def analyze(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Choose ranks."""

    def report(run: ShortRun) -> None:
        values = asdict(run)
        # One for each layer.
        del values["candidate"]["ranks"]
        emit({"event": "short_run", **values})

    training, analyzed = request["configs"]
    result = analysis.analyze(
        TrainingConfig(**training),
        AnalysisConfig(**analyzed),
        on_run=report,
        on_plan=lambda steps: emit({"event": "plan", "runs": len(steps), "steps": sum(steps)}),
    )
    return {
        "output": str(result.output),
        "information_bits": result.information_bits,
        "choice": asdict(result.choice),
        "settings": result.settings,
    }
