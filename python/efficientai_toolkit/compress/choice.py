"""Choice of one of the candidates: within budget and loss, or the nearest point on the front."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.compress.budget import QUANTITIES, Budget
from efficientai_toolkit.compress.measurement import CandidateRow


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Choice(Displayed):
    """Result of :func:`choose`."""

    row: CandidateRow | None
    """The chosen candidate; ``None`` if none could be measured."""
    meets_budget: bool
    """Whether it is within the budget and the loss; if not, it is the nearest point on the front."""
    reason: str


def choose(rows: Sequence[CandidateRow], budget: Budget, largest_loss: float, prefer: str) -> Choice:
    """Choose a candidate.

    If none is within both the budget and the loss, the one that exceeds them least is chosen: the sum of what
    exceeds each limit, relative to it, is the least.

    Parameters
    ----------
    rows
        The original and the candidates.
    budget
        Limits relative to the original.
    largest_loss
        Largest increase of the perplexity, as a fraction.
    prefer
        ``quality``, ``size`` or ``speed``.

    Returns
    -------
    Choice
    """
    done = [row for row in rows if row.is_measured and not row.is_original and row.latency_ratio is not None]
    if not done:
        return Choice(row=None, meets_budget=False, reason="no candidate could be built and measured")
    within = [row for row in done if not _find_excess(row, budget, largest_loss)]
    if within:
        chosen = min(within, key=_ORDERS[prefer])
        return Choice(row=chosen, meets_budget=True, reason=_praise(chosen, within, budget, prefer))
    front = [row for row in done if row.on_front] or done
    chosen = min(front, key=lambda row: sum(_find_excess(row, budget, largest_loss).values()))
    return Choice(row=chosen, meets_budget=False, reason=_excuse(chosen, done, budget, largest_loss))


def _find_excess(row: CandidateRow, budget: Budget, largest_loss: float) -> dict[str, float]:
    """Return by how much limits are exceeded, relative to them."""
    excess = budget.find_excess(row.ratios)
    loss = row.perplexity_increase or 0.0
    return excess | ({"loss": loss / largest_loss - 1} if loss > largest_loss else {})


def _praise(chosen: CandidateRow, within: Sequence[CandidateRow], budget: Budget, prefer: str) -> str:
    limits = "within the loss" if not budget.limits else "within budget and loss"
    others = [row for row in within if row is not chosen]
    start = f"{chosen.variant} has {_SUPERLATIVES[prefer]} of the {len(within)} candidates {limits}"
    if not others:
        start = f"{chosen.variant} is the only candidate {limits}"
    texts = [f"{start}: {describe(chosen)}"]
    if others:
        second = min(others, key=_ORDERS[prefer])
        texts.append(f"next would be {second.variant}: {describe(second)}")
    return "; ".join(texts)


def _excuse(chosen: CandidateRow, done: Sequence[CandidateRow], budget: Budget, largest_loss: float) -> str:
    excess = _find_excess(chosen, budget, largest_loss)
    over = ", ".join(f"{_name(key)} by {value:.0%}" for key, value in excess.items())
    texts = [
        f"no candidate is within budget and loss; nearest on the front is {chosen.variant}, which exceeds "
        f"the limit of the {over}: {describe(chosen)}"
    ]
    kept = [row for row in done if (row.perplexity_increase or 0.0) <= largest_loss]
    if kept and budget.limits:
        key = next(iter(budget.limits))
        best = min(kept, key=lambda row: row.ratios[key])
        texts.append(
            f"within the loss, the least {_name(key)} is {best.ratios[key]:.3f} of the original's "
            f"({best.variant})"
        )
    elif not kept:
        texts.append("all lose more than that")
    cheap = [row for row in done if not budget.find_excess(row.ratios)]
    if cheap and budget.limits:
        best = min(cheap, key=lambda row: row.perplexity_increase or 0.0)
        texts.append(f"within the budget, the least loss is {best.perplexity_increase:+.2%} ({best.variant})")
    elif budget.limits:
        texts.append("none is within the budget")
    return "; ".join(texts)


def _name(key: str) -> str:
    return "loss" if key == "loss" else QUANTITIES[key]


def describe(row: CandidateRow) -> str:
    """Describe quality, size and speed of a candidate in a line."""
    parts = [f"perplexity {row.perplexity:,.3f} ({row.perplexity_increase:+.2%})"]
    if row.accuracy is not None:
        parts.append(
            f"accuracy {row.accuracy:.1%} ({row.accuracy_difference:+.1%}, interval {row.accuracy_low:+.1%} "
            f"to {row.accuracy_high:+.1%})"
        )
    if row.size_bytes and row.size_ratio:
        parts.append(f"{format_size(row.size_bytes)}, {1 / row.size_ratio:.2f} times smaller")
    if row.latency_ratio:
        parts.append(
            f"{row.decode_tokens_per_second:,.1f} tokens/s, {1 / row.latency_ratio:.2f} times as fast"
        )
    return ", ".join(parts)


_SUPERLATIVES = {
    "quality": "the lowest perplexity",
    "size": "the smallest size",
    "speed": "the highest decoding speed",
}

_ORDERS: dict[str, Callable[[CandidateRow], tuple[float, float]]] = {
    "quality": lambda row: (row.perplexity_increase or 0.0, row.size_ratio or 0.0),
    "size": lambda row: (row.size_ratio or 0.0, row.perplexity_increase or 0.0),
    "speed": lambda row: (row.latency_ratio or 0.0, row.perplexity_increase or 0.0),
}
"""Keys whose least one is preferred; the second part breaks ties."""
