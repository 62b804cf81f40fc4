"""Federated learning: many clients train one model, and keep their rows.

>>> import efficientai_toolkit as eat
>>> result = eat.federated.run(clients=8, rounds=4)  # doctest: +SKIP
>>> eat.federated.aggregate(updates, rule="multi_krum", f=2)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.federated import codecs, privacy, secure
    from efficientai_toolkit.federated.aggregation import (
        Accumulator,
        Aggregate,
        aggregate,
        aggregate_with_report,
    )
    from efficientai_toolkit.federated.auditing import audit
    from efficientai_toolkit.federated.config import FederatedConfig
    from efficientai_toolkit.federated.grid import LocalGrid
    from efficientai_toolkit.federated.keys import make_keys
    from efficientai_toolkit.federated.lora import LoraAverage, average_lora
    from efficientai_toolkit.federated.result import Comparison, FederatedResult
    from efficientai_toolkit.federated.rounds import ClientReport, RoundReport
    from efficientai_toolkit.federated.rules import Rule
    from efficientai_toolkit.federated.scaffold import update_client_variate, update_server_variate
    from efficientai_toolkit.federated.selection import Selector
    from efficientai_toolkit.federated.server_step import ServerStep
    from efficientai_toolkit.federated.session import run
    from efficientai_toolkit.federated.simulation import simulate
    from efficientai_toolkit.federated.simulation_config import SimulationConfig
    from efficientai_toolkit.federated.simulator import Device, Simulator
    from efficientai_toolkit.federated.splitting import partition
    from efficientai_toolkit.federated.staleness import compute_staleness_weight, mix_rate
    from efficientai_toolkit.federated.strategy import FederatedStrategy

__all__ = [
    "Accumulator",
    "Aggregate",
    "ClientReport",
    "Comparison",
    "Device",
    "FederatedConfig",
    "FederatedResult",
    "FederatedStrategy",
    "LocalGrid",
    "LoraAverage",
    "RoundReport",
    "Rule",
    "Selector",
    "ServerStep",
    "SimulationConfig",
    "Simulator",
    "aggregate",
    "aggregate_with_report",
    "audit",
    "average_lora",
    "codecs",
    "compute_staleness_weight",
    "make_keys",
    "mix_rate",
    "partition",
    "privacy",
    "run",
    "secure",
    "simulate",
    "update_client_variate",
    "update_server_variate",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Accumulator": "federated.aggregation:Accumulator",
            "Aggregate": "federated.aggregation:Aggregate",
            "ClientReport": "federated.rounds:ClientReport",
            "Comparison": "federated.result:Comparison",
            "Device": "federated.simulator:Device",
            "FederatedConfig": "federated.config:FederatedConfig",
            "FederatedResult": "federated.result:FederatedResult",
            "FederatedStrategy": "federated.strategy:FederatedStrategy",
            "LocalGrid": "federated.grid:LocalGrid",
            "LoraAverage": "federated.lora:LoraAverage",
            "RoundReport": "federated.rounds:RoundReport",
            "Rule": "federated.rules:Rule",
            "Selector": "federated.selection:Selector",
            "ServerStep": "federated.server_step:ServerStep",
            "SimulationConfig": "federated.simulation_config:SimulationConfig",
            "Simulator": "federated.simulator:Simulator",
            "aggregate": "federated.aggregation:aggregate",
            "aggregate_with_report": "federated.aggregation:aggregate_with_report",
            "audit": "federated.auditing:audit",
            "average_lora": "federated.lora:average_lora",
            "codecs": "federated.codecs",
            "compute_staleness_weight": "federated.staleness:compute_staleness_weight",
            "make_keys": "federated.keys:make_keys",
            "mix_rate": "federated.staleness:mix_rate",
            "partition": "federated.splitting:partition",
            "privacy": "federated.privacy",
            "run": "federated.session:run",
            "secure": "federated.secure",
            "simulate": "federated.simulation:simulate",
            "update_client_variate": "federated.scaffold:update_client_variate",
            "update_server_variate": "federated.scaffold:update_server_variate",
        },
    )
