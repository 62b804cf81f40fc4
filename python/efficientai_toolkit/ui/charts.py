"""Curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from efficientai_toolkit._base.extras import require
from efficientai_toolkit.ui.monitor import Point, View, thin
from efficientai_toolkit.ui.theme import CURVES

TRAINING = "training"
VALIDATION = "validation"


def make_frame(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Any:
    """Return the points of named curves as the data frame that a plot takes."""
    pandas = require("pandas", extra="ui", purpose="the page")
    rows = [(step, value, name) for name, points in curves.items() for step, value in points]
    return pandas.DataFrame(rows, columns=["step", "value", "curve"])


def list_curves(view: View) -> list[Any]:
    """Return the data of the four plots of a training."""
    steps = thin(view.steps)
    loss = {TRAINING: _pairs(steps, "loss"), VALIDATION: _pairs(thin(view.evaluations), "loss")}
    others = [{TRAINING: _pairs(steps, name)} for name in ("lr", "tokens_per_second", "memory")]
    return [make_frame(curves) for curves in (loss, *others)]


def build_plot(gr: Any, title: str, **options: Any) -> Any:
    """Build a plot of curves over steps."""
    return gr.LinePlot(
        make_frame({}),
        x="step",
        y="value",
        title=title,
        x_title="step",
        y_title=" ",
        color_title=" ",
        x_axis_format="d",
        height=220,
        min_width=280,
        show_label=False,
        **{"color": "curve", "color_map": {TRAINING: CURVES[0], VALIDATION: CURVES[2]}, **options},
    )


def choose_colors(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each curve."""
    return {name: CURVES[number % len(CURVES)] for number, name in enumerate(names)}


def _pairs(points: Sequence[Point], name: str) -> list[tuple[float, float]]:
    return [(point["step"], point[name]) for point in points]
