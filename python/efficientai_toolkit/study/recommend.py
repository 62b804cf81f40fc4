"""Recommendation of one of several alternatives.

Among the alternatives whose loss is within ``tolerance`` % of the lowest, the cheapest is recommended. Ties
in cost are broken by loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_NOISE = 1.02
"""Costs within this factor of the lowest count as equal, since measurements are noisy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """A successful alternative."""

    name: str
    loss: float
    """Loss, positive."""
    cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """Result of :func:`recommend`."""

    method: str | None
    """``None`` if all alternatives failed."""
    reason: str


def recommend(
    alternatives: Sequence[Alternative], *, tolerance: float, cost: str, show: Callable[[float], str]
) -> Recommendation:
    """Recommend an alternative.

    Parameters
    ----------
    alternatives
        Successful alternatives.
    tolerance
        Tolerance of the loss in percent.
    cost
        Name of the cost, used in the reason.
    show
        Function that formats a cost.
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
