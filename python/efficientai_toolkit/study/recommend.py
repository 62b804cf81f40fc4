"""Which of several ways to take, and why.

The rule: those count whose loss is within ``tolerance`` % of the lowest one; of these, the one that costs the
least. Ways that cost as good as the same are told apart by their losses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_NOISE = 1.02
"""Costs within this factor of the least count as the same: runs of one way differ too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """A way that has worked."""

    name: str
    loss: float
    """Above 0."""
    cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """The outcome of the rule."""

    method: str | None
    """``None`` where none has trained to the end."""
    reason: str


def recommend(
    alternatives: Sequence[Alternative], *, tolerance: float, cost: str, show: Callable[[float], str]
) -> Recommendation:
    """Apply the rule of this module.

    Parameters
    ----------
    alternatives
        Those that have worked.
    tolerance
        In %.
    cost
        What is to be small, for the reason.
    show
        Writes a cost for people.
    """
    if not alternatives:
        return Recommendation(method=None, reason="no method has trained to the end")
    best = min(alternatives, key=lambda one: one.loss)
    # Losses are positive, so a share of the lowest one is a distance from it.
    limit = best.loss * (1 + tolerance / 100)
    enough = [one for one in alternatives if one.loss <= limit]
    least = min(one.cost for one in enough)
    alike = [one for one in enough if one.cost <= least * _NOISE]
    chosen = min(alike, key=lambda one: one.loss)
    share = f"{tolerance:g} %"
    quality = f"its validation loss of {chosen.loss:.3f} is "
    quality += (
        "the lowest" if chosen is best else f"within {share} of the lowest ({best.loss:.3f}, {best.name})"
    )
    need = show(chosen.cost)
    advantage = f"of the {len(enough)} that are good enough it needs the least {cost}: {need}"
    if len(alike) > 1:
        others = ", ".join(other.name for other in alike if other is not chosen)
        advantage += f"; so do, with a higher loss, {others}"
    if len(enough) == 1:
        advantage = f"no other comes within {share}; it needs {need}"
    return Recommendation(method=chosen.name, reason=f"{quality}, and {advantage}")
