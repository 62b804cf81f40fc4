"""Compression of language models for CPUs: pruning, recovery and quantization within a budget.

>>> import efficientai_toolkit as eat
>>> result = eat.compress.compress("org/name", budget="size=0.3", max_loss="2%")  # doctest: +SKIP
>>> result.choice.reason  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.compress.choice import Choice
    from efficientai_toolkit.compress.config import CompressConfig
    from efficientai_toolkit.compress.measurement import CandidateRow
    from efficientai_toolkit.compress.result import CompressResult
    from efficientai_toolkit.compress.run import compress
    from efficientai_toolkit.compress.timetable import Progress

__all__ = ["CandidateRow", "Choice", "CompressConfig", "CompressResult", "Progress", "compress"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "CandidateRow": "compress.measurement:CandidateRow",
            "Choice": "compress.choice:Choice",
            "CompressConfig": "compress.config:CompressConfig",
            "CompressResult": "compress.result:CompressResult",
            "Progress": "compress.timetable:Progress",
            "compress": "compress.run:compress",
        },
    )
