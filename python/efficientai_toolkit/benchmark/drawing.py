"""Plots as SVG text, to stand within a page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _ROW, _MARGIN, _TOP = 860, 26, 300, 30
_TICKS = 5
_LABEL = 44
"""Most characters of a label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """Samples of a case with median and quartiles."""

    label: str
    samples: Sequence[float]
    median: float
    q1: float
    q3: float


def draw_strips(strips: Sequence[Strip], title: str, show: Callable[[float], str]) -> str:
    """Draw a row of points per case, with a box from the first to the third quartile.

    The axis is logarithmic if the values are positive and span a factor of 20.

    Parameters
    ----------
    strips
        At least one row.
    title
        Name of the quantity.
    show
        Function that formats a value of the axis.
    """
    values = [value for strip in strips for value in strip.samples]
    low, high = min(values), max(values)
    use_log = low > 0 and high / low > 20  # noqa: PLR2004
    if not use_log:
        # From zero, so that lengths compare.
        low = min(low, 0.0)

    def scale(value: float) -> float:
        return math.log(value) if use_log else value

    start, span = scale(low), scale(high) - scale(low) or 1.0

    def place(value: float) -> float:
        return _MARGIN + (scale(value) - start) / span * (_WIDTH - _MARGIN - 40)

    height = _TOP + _ROW * len(strips) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">',
        f'<text x="0" y="16" font-weight="bold">{escape(title)}</text>',
    ]
    bottom = height - 30
    for step in range(_TICKS):
        at = start + span * step / (_TICKS - 1)
        value = math.exp(at) if use_log else at
        x = place(value)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(show(value))}</text>')
    for number, strip in enumerate(strips):
        parts += _draw_strip(strip, _TOP + _ROW * (number + 0.5), place)
    return "\n".join([*parts, "</svg>"])


def _draw_strip(strip: Strip, y: float, place: Callable[[float], float]) -> list[str]:
    left, right, middle = (place(value) for value in (strip.q1, strip.q3, strip.median))
    parts = [
        f'<text x="{_MARGIN - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(_fit(strip.label))}</text>',
        f'<rect x="{left:.1f}" y="{y - 8:.1f}" width="{max(right - left, 1):.1f}" height="16" '
        'fill="#4c78a8" fill-opacity="0.35"/>',
        f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 10:.1f}" y2="{y + 10:.1f}" '
        'stroke="#1f3d5c" stroke-width="2"/>',
    ]
    parts += [
        f'<circle cx="{place(value):.1f}" cy="{y:.1f}" r="2" fill="#1f3d5c" fill-opacity="0.4"/>'
        for value in strip.samples
    ]
    return parts


def _fit(label: str) -> str:
    """Cut a label in its middle to the width of the margin; names differ at both ends."""
    half = _LABEL // 2
    return label if len(label) <= _LABEL else f"{label[:half]}…{label[-half:]}"
