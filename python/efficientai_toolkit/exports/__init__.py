"""Models in the formats of other programs.

>>> from efficientai_toolkit.exports import export
>>> export("org/name", format="gguf", type="q4_k_m", output="model.gguf")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.exports import onnx, tflite
    from efficientai_toolkit.exports.config import ExportConfig
    from efficientai_toolkit.exports.formats import FORMATS
    from efficientai_toolkit.exports.result import ExportResult
    from efficientai_toolkit.exports.run import export

__all__ = ["FORMATS", "ExportConfig", "ExportResult", "export", "onnx", "tflite"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "FORMATS": "exports.formats:FORMATS",
            "ExportConfig": "exports.config:ExportConfig",
            "ExportResult": "exports.result:ExportResult",
            "export": "exports.run:export",
            "onnx": "exports.onnx",
            "tflite": "exports.tflite",
        },
    )
