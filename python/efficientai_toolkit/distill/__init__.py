"""Distillation: a student is trained to predict what a teacher predicts.

>>> from efficientai_toolkit.distill import distill
>>> result = distill("small", teacher="org/large", data="text.jsonl", method="full")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.distill.config import DistillConfig
    from efficientai_toolkit.distill.run import Distiller, distill

__all__ = ["DistillConfig", "Distiller", "distill"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "DistillConfig": "distill.config:DistillConfig",
            "Distiller": "distill.run:Distiller",
            "distill": "distill.run:distill",
        },
    )
