"""Plots of a benchmark of quantized models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from efficientai_toolkit._base.files import new_figure
from efficientai_toolkit.quantize.suite.measurement import Measurement

_ROW_INCHES = 0.35
_MAX_NAMES = 40
"""About how many layers are named on an axis."""


def draw_front(rows: Sequence[Measurement]) -> Any:
    """Draw the divergence of each variant against its size and its decoding speed.

    Variants of the Pareto front in size, speed and divergence are filled; lines join the front of each panel.
    The originals, which have no divergence, are dashed lines.

    Parameters
    ----------
    rows
        Rows that were measured.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure(columns=2, height=4.5)
    panels: list[tuple[str, Callable[[Measurement], float], bool]] = [
        ("size, MB", lambda row: (row.size_bytes or 0) / 1e6, False),
        ("decode, tokens/s", lambda row: row.decode_tokens_per_second or 0.0, True),
    ]
    models = list(dict.fromkeys(row.model for row in rows))
    for panel, (label, measure, is_high) in zip(axes, panels, strict=True):
        for number, model in enumerate(models):
            mine = [row for row in rows if row.model == model]
            _draw_panel(panel, mine, measure, f"C{number}", is_high=is_high, model=model)
        panel.set(xlabel=label, ylabel="mean KL divergence, nats", yscale="log")
        panel.margins(0.15)
    axes[0].legend(fontsize="small")
    return figure


def _draw_panel(
    panel: Any,
    rows: Sequence[Measurement],
    measure: Callable[[Measurement], float],
    color: str,
    *,
    is_high: bool,
    model: str,
) -> None:
    points = [(measure(row), row.mean_kl or 0.0, row) for row in rows if row.mean_kl]
    places = [measure(row) for row in rows]
    middle = (min(places) + max(places)) / 2
    for x, y, row in points:
        # Labels point to the middle, where there is room.
        side, shift = ("right", -5) if x > middle else ("left", 5)
        face = color if row.on_front else "none"
        panel.plot([x], [y], "o", markerfacecolor=face, markeredgecolor=color)
        panel.annotate(
            row.variant, (x, y), xytext=(shift, 4), ha=side, textcoords="offset points", fontsize=7
        )
    line: list[tuple[float, float]] = []
    for x, y, _ in sorted(points, key=lambda point: (-point[0] if is_high else point[0], point[1])):
        if not line or y < line[-1][1]:
            line.append((x, y))
    panel.plot([x for x, _ in line], [y for _, y in line], "-", color=color, alpha=0.5, label=model)
    for row in rows:
        if row.is_original:
            panel.axvline(measure(row), linestyle="--", color=color, alpha=0.5, label=f"{model}, original")


def draw_layers(errors: Mapping[str, Mapping[str, float]]) -> Any:
    """Draw the error of every layer as a map: a row per variant, a column per layer.

    Parameters
    ----------
    errors
        Relative squared error of the weights by layer, by variant; at least one of them.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.colors import LogNorm

    layers = list(dict.fromkeys(layer for found in errors.values() for layer in found))
    values = [[found.get(layer, float("nan")) for layer in layers] for found in errors.values()]
    positive = [value for row in values for value in row if value > 0]
    figure, axes = new_figure(height=2.5 + _ROW_INCHES * len(errors))
    norm = LogNorm(min(positive), max(positive)) if positive else None
    image = axes.imshow(values, aspect="auto", interpolation="nearest", norm=norm)
    axes.set_yticks(range(len(errors)), list(errors), fontsize=7)
    _name_layers(axes, layers)
    figure.colorbar(image, ax=axes, label="relative squared error")
    return figure


def draw_sensitivity(divergence: Mapping[str, float]) -> Any:
    """Draw what quantizing each layer alone costs, as a mixed-precision run has measured it.

    Parameters
    ----------
    divergence
        Mean KL divergence from the original by layer; at least one.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure()
    axes.bar(range(len(divergence)), list(divergence.values()))
    axes.set(ylabel="mean KL divergence, nats", yscale="log")
    _name_layers(axes, list(divergence))
    return figure


def _name_layers(axes: Any, layers: Sequence[str]) -> None:
    places = range(0, len(layers), max(len(layers) // _MAX_NAMES, 1))
    names = [layers[place].removeprefix("model.") for place in places]
    axes.set_xticks(places, names, rotation=90, fontsize=6)
