"""Plots of results."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from efficientai_toolkit._base.files import new_figure, write_figure


def draw_bars(path: Path, names: Sequence[str], panels: Mapping[str, Sequence[float]]) -> None:
    """Plot one bar chart per quantity.

    Parameters
    ----------
    path
        Path of the PNG file.
    names
        Names of the bars.
    panels
        Values of all ``names`` by axis label; at least two.
    """
    figure, axes = new_figure(columns=len(panels))
    for panel, (label, values) in zip(axes, panels.items(), strict=True):
        panel.bar_label(panel.bar(names, values), fmt="%.3g")
        panel.set(ylabel=label)
        panel.tick_params(axis="x", rotation=30)
    write_figure(path, figure)


def draw_history(path: Path, values: Mapping[int, float], label: str) -> None:
    """Plot the objective of each trial and the best so far; ``values`` by trial number."""
    figure, axes = new_figure()
    numbers = list(values)
    axes.plot(numbers, list(values.values()), "o", label="runs")
    axes.step(numbers, list(accumulate(values.values(), min)), where="post", label="best so far")
    axes.set(xlabel="run", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    write_figure(path, figure)


def draw_importance(path: Path, importance: Mapping[str, float], objective: str) -> None:
    """Plot the fraction of the variance of ``objective`` explained by each setting."""
    figure, axes = new_figure()
    names = list(importance)[::-1]
    axes.barh(names, [importance[name] for name in names])
    axes.set(xlabel=f"share of the variance of {objective} explained")
    write_figure(path, figure)


def draw_front(
    path: Path,
    points: Mapping[str, Sequence[tuple[float, float]]],
    labels: tuple[str, str],
) -> None:
    """Plot trials by two objectives; ``points`` by legend label."""
    figure, axes = new_figure()
    for title, shown in points.items():
        axes.plot([x for x, _ in shown], [y for _, y in shown], "o", label=title)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.legend()
    write_figure(path, figure)
