"""Pictures drawn by matplotlib, which is imported only for them."""

from pathlib import Path
from typing import Any

_INCHES = (7, 4)


def new_figure(columns: int = 1) -> tuple[Any, Any]:
    """A figure that no window shows, and its axes; an array of them where there are several columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = _INCHES
    figure: Any = Figure(figsize=(max(width, 4 * columns), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def save(figure: Any, path: Path) -> None:
    """Write a PNG at once."""
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=150)
    temporary.replace(path)
