"""Compression of language models for CPUs: pruning, recovery and quantization within a budget.

>>> import efficientai_toolkit as eat
>>> result = eat.compress.compress("org/name", budget="size=0.3", max_loss="2%")  # doctest: +SKIP
>>> result.choice.reason  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.compress.choice import Choice
    from efficientai_toolkit.compress.comparison import compare
    from efficientai_toolkit.compress.config import CompressConfig
    from efficientai_toolkit.compress.measurement import CandidateRow
    from efficientai_toolkit.compress.peers.config import PeersConfig
    from efficientai_toolkit.compress.peers.run import RuntimeComparison, RuntimeRow, benchmark
    from efficientai_toolkit.compress.quality import QualityConfig
    from efficientai_toolkit.compress.result import CompressResult
    from efficientai_toolkit.compress.run import compress
    from efficientai_toolkit.compress.simulation.config import SimulationConfig
    from efficientai_toolkit.compress.simulation.run import Simulation, simulate
    from efficientai_toolkit.compress.timetable import Progress

__all__ = [
    "CandidateRow",
    "Choice",
    "CompressConfig",
    "CompressResult",
    "PeersConfig",
    "Progress",
    "QualityConfig",
    "RuntimeComparison",
    "RuntimeRow",
    "Simulation",
    "SimulationConfig",
    "benchmark",
    "compare",
    "compress",
    "simulate",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "CandidateRow": "compress.measurement:CandidateRow",
            "Choice": "compress.choice:Choice",
            "CompressConfig": "compress.config:CompressConfig",
            "CompressResult": "compress.result:CompressResult",
            "PeersConfig": "compress.peers.config:PeersConfig",
            "Progress": "compress.timetable:Progress",
            "QualityConfig": "compress.quality:QualityConfig",
            "RuntimeComparison": "compress.peers.run:RuntimeComparison",
            "RuntimeRow": "compress.peers.run:RuntimeRow",
            "Simulation": "compress.simulation.run:Simulation",
            "SimulationConfig": "compress.simulation.config:SimulationConfig",
            "benchmark": "compress.peers.run:benchmark",
            "compare": "compress.comparison:compare",
            "compress": "compress.run:compress",
            "simulate": "compress.simulation.run:simulate",
        },
    )
