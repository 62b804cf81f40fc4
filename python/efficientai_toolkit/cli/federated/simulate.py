"""``federated-learning:simulate``: rounds of many small clients on a simulated network."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from efficientai_toolkit.cli.federated.groups import SIMULATE_ESSENTIAL as ESSENTIAL
from efficientai_toolkit.cli.federated.groups import SIMULATE_GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.federated.simulation_config import SimulationConfig

if TYPE_CHECKING:
    from efficientai_toolkit.federated.simulator import Moment

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`SimulationConfig`."""
    add_config(parser, SimulationConfig, title="simulation", groups=SIMULATE_GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Run each mode on the same clients, and print how long each takes."""
    from efficientai_toolkit.federated.simulation import simulate

    config = build_config(args, SimulationConfig)
    found = simulate(config)
    out.line(
        format_pairs([(mode, _describe(moments, config.target_loss)) for mode, moments in found.items()])
    )
    out.result({mode: [asdict(moment) for moment in moments] for mode, moments in found.items()})
    return 0


def _describe(moments: "list[Moment]", target: float | None) -> str:
    if not moments:
        return "no client came back"
    last = moments[-1]
    reached = target is not None and last.metrics["loss"] <= target
    goal = f", loss {target:g} {'reached' if reached else 'not reached'}" if target is not None else ""
    return (
        f"loss {last.metrics['loss']:.4f}, accuracy {last.metrics['accuracy']:.1%} after "
        f"{last.seconds:,.1f} s of "
        f"the simulated clock, {last.version:,} versions of {last.updates:,} updates{goal}"
    )
