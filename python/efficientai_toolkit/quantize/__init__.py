"""Post-training quantization of language models.

>>> from efficientai_toolkit.quantize import quantize
>>> result = quantize("org/name", bits=4, calibration="data.jsonl", output="model-4bit")  # doctest: +SKIP

Benchmarks of techniques and settings, and the choice among them:

>>> from efficientai_toolkit.quantize import benchmark, recommend
>>> result = benchmark("org/name", techniques=["rtn", "gptq"], bits=[3, 4])  # doctest: +SKIP
>>> recommend(result, max_loss="1%", prefer="size").reason  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.quantize.config import QuantizeConfig
    from efficientai_toolkit.quantize.presets import PRESETS
    from efficientai_toolkit.quantize.result import LayerReport, LayerSensitivity, QuantizeResult
    from efficientai_toolkit.quantize.run import quantize
    from efficientai_toolkit.quantize.subset import SubsetConfig, SubsetResult, select_subset
    from efficientai_toolkit.quantize.suite.comparison import QuantizationComparison, compare
    from efficientai_toolkit.quantize.suite.config import SuiteConfig
    from efficientai_toolkit.quantize.suite.demo import build_demo
    from efficientai_toolkit.quantize.suite.measurement import Measurement
    from efficientai_toolkit.quantize.suite.recommendation import (
        Recommendation,
        RecommendationConfig,
        recommend,
    )
    from efficientai_toolkit.quantize.suite.result import BenchmarkResult
    from efficientai_toolkit.quantize.suite.run import benchmark
    from efficientai_toolkit.quantize.suite.table import format_rows

__all__ = [
    "PRESETS",
    "BenchmarkResult",
    "LayerReport",
    "LayerSensitivity",
    "Measurement",
    "QuantizationComparison",
    "QuantizeConfig",
    "QuantizeResult",
    "Recommendation",
    "RecommendationConfig",
    "SubsetConfig",
    "SubsetResult",
    "SuiteConfig",
    "benchmark",
    "build_demo",
    "compare",
    "format_rows",
    "quantize",
    "recommend",
    "select_subset",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "PRESETS": "quantize.presets:PRESETS",
            "LayerSensitivity": "quantize.result:LayerSensitivity",
            "BenchmarkResult": "quantize.suite.result:BenchmarkResult",
            "LayerReport": "quantize.result:LayerReport",
            "Measurement": "quantize.suite.measurement:Measurement",
            "QuantizationComparison": "quantize.suite.comparison:QuantizationComparison",
            "QuantizeConfig": "quantize.config:QuantizeConfig",
            "QuantizeResult": "quantize.result:QuantizeResult",
            "Recommendation": "quantize.suite.recommendation:Recommendation",
            "RecommendationConfig": "quantize.suite.recommendation:RecommendationConfig",
            "SubsetConfig": "quantize.subset:SubsetConfig",
            "SubsetResult": "quantize.subset:SubsetResult",
            "SuiteConfig": "quantize.suite.config:SuiteConfig",
            "benchmark": "quantize.suite.run:benchmark",
            "build_demo": "quantize.suite.demo:build_demo",
            "compare": "quantize.suite.comparison:compare",
            "format_rows": "quantize.suite.table:format_rows",
            "quantize": "quantize.run:quantize",
            "recommend": "quantize.suite.recommendation:recommend",
            "select_subset": "quantize.subset:select_subset",
        },
    )
