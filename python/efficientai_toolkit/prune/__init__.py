"""Pruning of language models.

>>> from efficientai_toolkit.prune import prune
>>> result = prune("org/name", sparsity=0.5, calibration="data.jsonl", output="sparse")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.prune.config import PruneConfig
    from efficientai_toolkit.prune.result import BlockReport, LayerReport, PruneResult
    from efficientai_toolkit.prune.run import prune

__all__ = ["BlockReport", "LayerReport", "PruneConfig", "PruneResult", "prune"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "BlockReport": "prune.result:BlockReport",
            "LayerReport": "prune.result:LayerReport",
            "PruneConfig": "prune.config:PruneConfig",
            "PruneResult": "prune.result:PruneResult",
            "prune": "prune.run:prune",
        },
    )
