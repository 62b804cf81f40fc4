"""Recommendation of a method."""

from collections.abc import Sequence

from efficientai_toolkit.lora.comparison.config import ComparisonConfig
from efficientai_toolkit.lora.comparison.measurement import Measurement
from efficientai_toolkit.study import recommend as study
from efficientai_toolkit.study.recommend import Recommendation


def recommend(rows: Sequence[Measurement], config: ComparisonConfig) -> Recommendation:
    """Recommend the cheapest method, in memory or time, whose validation loss is good enough.

    See :mod:`efficientai_toolkit.study.recommend`.
    """
    in_memory = config.prefer == "memory"
    alternatives = [
        study.Alternative(
            name=row.method,
            loss=row.loss_after or 0.0,
            cost=(row.peak_memory_gb if in_memory else row.seconds) or 0.0,
        )
        for row in rows
        if row.error is None
    ]
    return study.recommend(
        alternatives,
        tolerance=config.tolerance,
        cost=config.prefer,
        show=lambda cost: f"{cost:.2f} GB of memory" if in_memory else f"{cost:.1f} s",
    )
