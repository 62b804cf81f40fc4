"""ONNX: graphs for onnxruntime and onnxruntime-genai.

>>> from efficientai_toolkit.exports.onnx import Session
>>> Session("model-onnx").generate("Once upon a time", max_tokens=32)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.exports.onnx.session import Session

__all__ = ["Session"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, {"Session": "exports.onnx.session:Session"})
