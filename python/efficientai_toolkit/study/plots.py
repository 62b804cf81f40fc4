"""Pictures of a search."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from efficientai_toolkit._base.figures import new_figure, save

if TYPE_CHECKING:
    from efficientai_toolkit.study.search import OptimizationResult

_UNITS = {
    "loss": "validation loss, nats",
    "time": "time, s",
    "memory": "peak memory, GB",
    "parameters": "trained",
}


def draw(result: "OptimizationResult", objectives: Sequence[str]) -> None:
    """Write ``history.png``, ``importance.png`` and, for several objectives, ``front.png``."""
    _history(result, objectives[0])
    if result.importance:
        _importance(result, objectives[0])
    if len(objectives) > 1:
        _front(result, objectives[0], objectives[1])


def _history(result: "OptimizationResult", objective: str) -> None:
    figure, axes = new_figure()
    done = [(trial.number, trial.values[objective]) for trial in result.trials if trial.values]
    numbers, values = zip(*done, strict=True)
    axes.plot(numbers, values, "o", label="runs")
    axes.step(numbers, list(accumulate(values, min)), where="post", label="best so far")
    axes.set(xlabel="run", ylabel=_UNITS[objective])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    save(figure, result.output / "history.png")


def _importance(result: "OptimizationResult", objective: str) -> None:
    figure, axes = new_figure()
    names = list(reversed(result.importance))
    axes.barh(names, [result.importance[name] for name in names])
    axes.set(xlabel=f"share of the variance of {objective} explained")
    save(figure, result.output / "importance.png")


def _front(result: "OptimizationResult", x: str, y: str) -> None:
    figure, axes = new_figure()
    for label, is_front in (("others", False), ("front", True)):
        points = [t.values for t in result.trials if t.values and (t.number in result.front) is is_front]
        axes.plot([p[x] for p in points], [p[y] for p in points], "o", label=label)
    axes.set(xlabel=_UNITS[x], ylabel=_UNITS[y])
    axes.legend()
    save(figure, result.output / "front.png")
