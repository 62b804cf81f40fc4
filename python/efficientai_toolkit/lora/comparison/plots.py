"""The picture of a comparison."""

from collections.abc import Sequence
from pathlib import Path

from efficientai_toolkit._base.figures import new_figure, save
from efficientai_toolkit.lora.comparison.measurement import Measurement

_PANELS = {
    "loss_after": "validation loss, nats",
    "seconds": "training time, s",
    "peak_memory_gb": "peak memory, GB",
}


def draw(path: Path, rows: Sequence[Measurement]) -> None:
    """Bars of what each method achieves and needs."""
    done = [row for row in rows if row.error is None]
    figure, panels = new_figure(columns=len(_PANELS))
    for axes, (field, label) in zip(panels, _PANELS.items(), strict=True):
        bars = axes.bar([row.method for row in done], [getattr(row, field) for row in done])
        axes.bar_label(bars, fmt="%.3g")
        axes.set(ylabel=label)
        axes.tick_params(axis="x", rotation=30)
    save(figure, path)
