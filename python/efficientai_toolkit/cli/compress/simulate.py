"""``cpu-model-compression:simulate``: run a model under limits."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import asdict

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.compress.simulation.config import SimulationConfig

ESSENTIAL = (
    "model_path", "cores", "memory", "threads", "prompt", "prompt_tokens", "generated_tokens", "json",
    "quiet", "debug",
)  # fmt: skip
"""What a simulation depends on."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`SimulationConfig`."""
    add_config(parser, SimulationConfig, title="simulation")


def run(args: Namespace, out: Output) -> int:
    """Print latencies, memory and energy; return 2 if the memory is not enough."""
    from efficientai_toolkit.compress.simulation.run import simulate

    found = simulate(build_config(args, SimulationConfig), show_progress=not out.quiet)
    pairs = [("outcome", found.outcome if found.reason is None else f"{found.outcome}: {found.reason}")]
    if found.load_seconds is not None:
        pairs.append(("time to load", f"{found.load_seconds:.2f} s"))
    for title, times in (("first token", found.first_token), ("each further token", found.token)):
        if times is not None:
            pairs.append((title, _milliseconds(times)))
    if found.tokens_per_second is not None:
        pairs.append(("speed", f"{found.tokens_per_second:,.1f} tokens/s"))
    if found.peak_memory_bytes is not None:
        pairs.append(("peak memory", format_size(found.peak_memory_bytes)))
    if found.joules_per_token is not None:
        pairs.append(("energy", f"{found.joules_per_token:.3g} J per token, of all that ran meanwhile"))
    elif found.energy_note is not None:
        pairs.append(("energy", f"not known: {found.energy_note}"))
    out.line(format_pairs(pairs))
    out.result(asdict(found))
    return 0 if found.is_finished else 2


def _milliseconds(times: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds * 1000:,.1f} ms" for name, seconds in times.items())
