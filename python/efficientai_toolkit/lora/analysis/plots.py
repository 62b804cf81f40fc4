"""Plots of an analysis."""

from collections.abc import Sequence
from pathlib import Path

from efficientai_toolkit._base.files import new_figure, write_figure
from efficientai_toolkit.lora.analysis.allocation import Layer
from efficientai_toolkit.lora.analysis.candidates import Candidate
from efficientai_toolkit.lora.analysis.forecast import Forecast


def draw(
    path: Path,
    layers: Sequence[Layer],
    choice: Candidate,
    forecasts: Sequence[Forecast],
    references: Sequence[Forecast],
) -> None:
    """Plot gradient spectra, chosen ranks and forecasts."""
    figure, (spectra, ranks, losses) = new_figure(columns=3)
    for layer in layers:
        spectra.plot(range(1, layer.most + 1), layer.singular_values, linewidth=0.8)
    spectra.set(xlabel="number", ylabel="singular value of the gradient", yscale="log")
    places = range(len(layers))
    ranks.bar(places, [choice.ranks[layer.path] for layer in layers], label="rank")
    ranks.plot(places, [layer.effective_rank for layer in layers], "k.", label="effective rank")
    ranks.set(xlabel="layer, in the order of the model", ylabel="rank")
    ranks.legend()
    for title, marker, shown in (("found", "o-", forecasts), ("one rank for all", "x:", references)):
        done = [one for one in shown if one.loss is not None]
        losses.plot(
            [one.candidate.parameters for one in done], [one.loss for one in done], marker, label=title
        )
    losses.axvline(choice.parameters, linestyle=":", color="k", label="chosen")
    losses.set(xlabel="parameters", ylabel="expected validation loss, nats", xscale="log")
    losses.legend()
    write_figure(path, figure)
