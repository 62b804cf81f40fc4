"""Post-training quantization of language models.

>>> from efficientai_toolkit.quantize import quantize
>>> result = quantize("org/name", bits=4, calibration="data.jsonl", output="model-4bit")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.quantize.config import QuantizeConfig
    from efficientai_toolkit.quantize.presets import PRESETS
    from efficientai_toolkit.quantize.result import LayerReport, LayerSensitivity, QuantizeResult
    from efficientai_toolkit.quantize.run import quantize

__all__ = ["PRESETS", "LayerReport", "LayerSensitivity", "QuantizeConfig", "QuantizeResult", "quantize"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "PRESETS": "quantize.presets:PRESETS",
            "LayerReport": "quantize.result:LayerReport",
            "LayerSensitivity": "quantize.result:LayerSensitivity",
            "QuantizeConfig": "quantize.config:QuantizeConfig",
            "QuantizeResult": "quantize.result:QuantizeResult",
            "quantize": "quantize.run:quantize",
        },
    )
