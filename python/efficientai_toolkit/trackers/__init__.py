"""Trackers of runs: TensorBoard, MLflow, Weights & Biases, JSON lines and CSV; and reading runs back.

>>> import efficientai_toolkit as eat
>>> tracker = eat.trackers.Tracker("tensorboard", "jsonl")  # doctest: +SKIP
>>> eat.lora.MLXTrainer(callback=[eat.callbacks.ProgressBar(), tracker]).train()  # doctest: +SKIP
>>> runs = eat.trackers.read_runs("runs").runs  # doctest: +SKIP
>>> eat.trackers.compare(runs[0], runs[1]).settings  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.run import Run
    from efficientai_toolkit.trackers.comparison import Comparison, compare
    from efficientai_toolkit.trackers.export import export_runs
    from efficientai_toolkit.trackers.history import History, read_history
    from efficientai_toolkit.trackers.names import TRACKERS
    from efficientai_toolkit.trackers.plots import draw_runs
    from efficientai_toolkit.trackers.runs import RunFolder, find_run, read_runs
    from efficientai_toolkit.trackers.tracker import Tracker

__all__ = [
    "TRACKERS",
    "Comparison",
    "History",
    "Run",
    "RunFolder",
    "Tracker",
    "compare",
    "draw_runs",
    "export_runs",
    "find_run",
    "read_history",
    "read_runs",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "TRACKERS": "trackers.names:TRACKERS",
            "Comparison": "trackers.comparison:Comparison",
            "History": "trackers.history:History",
            "Run": "callbacks.run:Run",
            "RunFolder": "trackers.runs:RunFolder",
            "Tracker": "trackers.tracker:Tracker",
            "compare": "trackers.comparison:compare",
            "draw_runs": "trackers.plots:draw_runs",
            "export_runs": "trackers.export:export_runs",
            "find_run": "trackers.runs:find_run",
            "read_history": "trackers.history:read_history",
            "read_runs": "trackers.runs:read_runs",
        },
    )
