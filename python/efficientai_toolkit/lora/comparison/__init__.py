"""Comparison of fine-tuning methods on the same model, data, steps and seed.

>>> import efficientai_toolkit as eat
>>> comparison = eat.lora.compare(eat.lora.TrainingConfig(iters=100))  # doctest: +SKIP
>>> print(comparison.recommendation.reason)  # doctest: +SKIP
"""

from efficientai_toolkit.lora.comparison.config import ComparisonConfig, available_methods
from efficientai_toolkit.lora.comparison.measurement import Measurement
from efficientai_toolkit.lora.comparison.recommendation import recommend
from efficientai_toolkit.lora.comparison.run import Comparison, compare
from efficientai_toolkit.study.recommend import Recommendation

__all__ = [
    "Comparison",
    "ComparisonConfig",
    "Measurement",
    "Recommendation",
    "available_methods",
    "compare",
    "recommend",
]
