"""Fine-tuning language models with LoRA, or in full.

>>> from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
>>> config = TrainingConfig(model_path="org/name", data="my_data", epochs=2)
>>> result = MLXTrainer(config).train()  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.adapters import convert_adapter, fuse
    from efficientai_toolkit.adapters import convert_adapter as convert
    from efficientai_toolkit.evaluation.run import evaluate
    from efficientai_toolkit.lora.analysis.run import analyze
    from efficientai_toolkit.lora.comparison.run import compare
    from efficientai_toolkit.lora.config import TrainingConfig, new_run
    from efficientai_toolkit.lora.optimization.run import optimize
    from efficientai_toolkit.lora.result import TrainingResult
    from efficientai_toolkit.lora.trainer import MLXTrainer
    from efficientai_toolkit.study.folder import RUNS

__all__ = [
    "RUNS",
    "MLXTrainer",
    "TrainingConfig",
    "TrainingResult",
    "analyze",
    "compare",
    "convert",
    "convert_adapter",
    "evaluate",
    "fuse",
    "new_run",
    "optimize",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "RUNS": "study.folder:RUNS",
            "MLXTrainer": "lora.trainer:MLXTrainer",
            "TrainingConfig": "lora.config:TrainingConfig",
            "TrainingResult": "lora.result:TrainingResult",
            "analyze": "lora.analysis.run:analyze",
            "compare": "lora.comparison.run:compare",
            "convert": "adapters:convert_adapter",
            "convert_adapter": "adapters:convert_adapter",
            "evaluate": "evaluation.run:evaluate",
            "fuse": "adapters:fuse",
            "new_run": "lora.config:new_run",
            "optimize": "lora.optimization.run:optimize",
        },
    )
