"""Training."""

from typing import Any

from efficientai_toolkit.jobs.work.reporting import report_to
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.trainer import MLXTrainer
from efficientai_toolkit.study.job import Emit

_PER_STEP = frozenset({"train_losses", "train_rewards"})


def train(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Fine-tune a model."""
    [settings] = request["configs"]
    result = MLXTrainer(TrainingConfig(**settings), callback=report_to(emit)).train()
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
