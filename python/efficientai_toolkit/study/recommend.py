"""Which method to take, and why.

The rule: of the methods that trained to the end, those count whose validation loss is within
``tolerance`` % of the lowest one; of these, the one that needs the least memory (or time). Methods that need
as good as the same are told apart by their losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from efficientai_toolkit.lora.comparison.config import ComparisonConfig
from efficientai_toolkit.lora.comparison.measurement import Measurement

_NOISE = 1.02
"""Needs within this factor of the least count as the same: runs of one method differ too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """The outcome of the rule."""

    method: str | None
    """``None`` where none has trained to the end."""
    reason: str


def recommend(rows: Sequence[Measurement], config: ComparisonConfig) -> Recommendation:
    """Apply the rule of this module."""
    done = [(row, _numbers(row)) for row in rows if row.error is None]
    if not done:
        return Recommendation(method=None, reason="no method has trained to the end")
    best, (lowest, _, _) = min(done, key=lambda pair: pair[1][0])
    # Losses are positive, so a share of the lowest one is a distance from it.
    limit = lowest * (1 + config.tolerance / 100)
    enough = [(row, numbers) for row, numbers in done if numbers[0] <= limit]
    key = 1 if config.prefer == "memory" else 2
    least = min(numbers[key] for _, numbers in enough)
    alike = [(row, numbers) for row, numbers in enough if numbers[key] <= least * _NOISE]
    row, (loss, memory, seconds) = min(alike, key=lambda pair: pair[1][0])
    share = f"{config.tolerance:g} %"
    quality = f"its validation loss of {loss:.3f} is "
    quality += "the lowest" if row is best else f"within {share} of the lowest ({lowest:.3f}, {best.method})"
    need = f"{memory:.2f} GB of memory" if config.prefer == "memory" else f"{seconds:.1f} s"
    cost = f"of the {len(enough)} that are good enough it needs the least {config.prefer}: {need}"
    if len(alike) > 1:
        others = ", ".join(other.method for other, _ in alike if other is not row)
        cost += f"; so do, with a higher loss, {others}"
    if len(enough) == 1:
        cost = f"no other comes within {share}; it needs {need}"
    return Recommendation(method=row.method, reason=f"{quality}, and {cost}")


def _numbers(row: Measurement) -> tuple[float, float, float]:
    """Loss, memory in GB and seconds of a run that went well."""
    return (row.loss_after or 0.0, row.peak_memory_gb or 0.0, row.seconds or 0.0)
