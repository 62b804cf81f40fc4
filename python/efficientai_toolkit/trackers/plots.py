"""Plots of runs: as a picture, and as text."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import new_figure, write_figure
from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.trackers.history import Curve, read_history

_FORMATS = (".png", ".svg")
_PREFERRED = ("train/loss", "valid/loss", "loss", "loss_after", "train/lr", "train/tokens_per_second")
_PANELS = 4


def draw_runs(path: str | Path, runs: Mapping[str, Run], metrics: Sequence[str] = ()) -> None:
    """Plot metrics by step, a panel per metric and a line per run.

    Parameters
    ----------
    path
        A ``.png`` or ``.svg`` file.
    runs
        Runs by the label in the legend.
    metrics
        Names of the metrics; by default losses, learning rate and throughput, as far as they are there.

    Raises
    ------
    ConfigError
        If the file has another ending, or no run has such a metric.
    DependencyError
        If Matplotlib is not installed.
    """
    file = Path(path).expanduser()
    if file.suffix not in _FORMATS:
        message = f"a plot is a {' or '.join(_FORMATS)} file, not {file.name!r}"
        raise ConfigError(message)
    require("matplotlib", extra="plots", purpose="a plot")
    curves = {label: read_history(run).curves for label, run in runs.items()}
    shown = choose_metrics(curves.values(), metrics)
    figure, axes = new_figure(columns=len(shown))
    for panel, metric in zip(axes if len(shown) > 1 else [axes], shown, strict=True):
        for label, found in curves.items():
            if metric in found:
                few = {"marker": "o"} if len(found[metric]) == 1 else {}
                panel.plot(*zip(*found[metric], strict=True), label=label, **few)
        panel.set(xlabel="step", title=metric)
        panel.legend()
    write_figure(file, figure)


def choose_metrics(curves: Iterable[Mapping[str, Curve]], metrics: Sequence[str] = ()) -> list[str]:
    """Return the metrics to plot: the given ones, or up to four of the usual ones.

    Raises
    ------
    ConfigError
        If there are no such metrics.
    """
    known = dict.fromkeys(name for found in curves for name in found)
    if not known:
        message = "there is nothing to plot: no run has saved a metric by step; `--track jsonl` does"
        raise ConfigError(message)
    for name in metrics:
        if name not in known:
            message = f"there is no metric {name!r}; there are {', '.join(known)}"
            raise ConfigError(message)
    usual = [name for name in _PREFERRED if name in known]
    return list(dict.fromkeys(metrics or usual or known))[:_PANELS]


def draw_text(curve: Curve, *, width: int, height: int = 8) -> list[str]:
    """Return lines that show a curve, with its extremes on the left and its steps below."""
    steps, values = [step for step, _ in curve], [value for _, value in curve]
    low, high = min(values), max(values)
    first, last = min(steps), max(steps)
    labels = [f"{high:.4g}", f"{low:.4g}"]
    margin = max(map(len, labels))
    columns = max(width - margin - 2, 1)
    cells = [[" "] * columns for _ in range(height)]
    for step, value in curve:
        column = round((columns - 1) * (step - first) / max(last - first, 1))
        row = round((height - 1) * (high - value) / (high - low)) if high > low else height - 1
        cells[row][column] = "•"
    lines = [f"{'':>{margin}} │{''.join(row)}".rstrip() for row in cells]
    lines[0] = f"{labels[0]:>{margin}} ┤{''.join(cells[0])}".rstrip()
    lines[-1] = f"{labels[1]:>{margin}} ┤{''.join(cells[-1])}".rstrip()
    steps_line = f"{first}{last:>{max(columns - len(str(first)), 1)}}"
    return [*lines, f"{'':>{margin}}  {steps_line}"]
