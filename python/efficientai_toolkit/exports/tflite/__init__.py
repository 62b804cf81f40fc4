"""LiteRT: flatbuffers of decoders that read a fixed number of tokens.

>>> from efficientai_toolkit.exports.tflite import Session
>>> Session("model-tflite").generate("Once upon a time", max_tokens=32)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.exports.tflite.session import Session

__all__ = ["Session"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, {"Session": "exports.tflite.session:Session"})
