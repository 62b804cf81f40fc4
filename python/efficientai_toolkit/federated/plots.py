"""Plots of federated runs."""

from importlib.util import find_spec
from pathlib import Path

from efficientai_toolkit._base.files import new_figure, write_figure
from efficientai_toolkit.federated.result import FederatedResult


def draw_rounds(path: Path, result: FederatedResult) -> None:
    """Plot the losses after each round, and the sizes of the clients; nothing without matplotlib."""
    if find_spec("matplotlib") is None:
        return
    figure, (losses, sizes) = new_figure(columns=2)
    numbers = [report.round for report in result.rounds]
    for name, label in (("loss", "training"), ("eval-loss", "validation")):
        shown = [(report.round, report.metrics[name]) for report in result.rounds if name in report.metrics]
        losses.plot([x for x, _ in shown], [y for _, y in shown], "o-", label=label)
    losses.set(xlabel="round", ylabel="loss")
    losses.set_xticks(numbers)
    losses.legend()
    sizes.bar(range(len(result.share_sizes)), result.share_sizes)
    sizes.set(xlabel="client", ylabel="rows")
    write_figure(path, figure)
