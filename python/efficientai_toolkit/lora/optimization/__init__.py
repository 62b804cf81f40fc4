"""Hyperparameter search for training runs.

>>> import efficientai_toolkit as eat
>>> study = eat.lora.optimize(eat.lora.TrainingConfig(iters=100), trials=20)  # doctest: +SKIP
>>> study.best_settings, study.best_values  # doctest: +SKIP

Needs the extra ``optimize``.
"""

from efficientai_toolkit.lora.optimization.config import OBJECTIVES, OptimizationConfig
from efficientai_toolkit.lora.optimization.run import optimize
from efficientai_toolkit.lora.optimization.space import SearchSpace
from efficientai_toolkit.study.search import SearchResult as OptimizationResult
from efficientai_toolkit.study.search import Trial

__all__ = ["OBJECTIVES", "OptimizationConfig", "OptimizationResult", "SearchSpace", "Trial", "optimize"]
