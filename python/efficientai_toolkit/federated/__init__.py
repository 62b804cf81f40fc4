"""Federated learning.

>>> import efficientai_toolkit as eat
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
    from efficientai_toolkit.federated.lora import LoraAverage, average_lora
    from efficientai_toolkit.federated.scaffold import update_client_variate, update_server_variate
    from efficientai_toolkit.federated.staleness import compute_staleness_weight, mix_rate

__all__ = [
    "Accumulator",
    "Aggregate",
    "LoraAverage",
    "aggregate",
    "aggregate_with_report",
    "average_lora",
    "codecs",
    "compute_staleness_weight",
    "mix_rate",
    "privacy",
    "secure",
    "update_client_variate",
    "update_server_variate",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Accumulator": "federated.aggregation:Accumulator",
            "Aggregate": "federated.aggregation:Aggregate",
            "LoraAverage": "federated.lora:LoraAverage",
            "aggregate": "federated.aggregation:aggregate",
            "aggregate_with_report": "federated.aggregation:aggregate_with_report",
            "average_lora": "federated.lora:average_lora",
            "codecs": "federated.codecs",
            "compute_staleness_weight": "federated.staleness:compute_staleness_weight",
            "mix_rate": "federated.staleness:mix_rate",
            "privacy": "federated.privacy",
            "secure": "federated.secure",
            "update_client_variate": "federated.scaffold:update_client_variate",
            "update_server_variate": "federated.scaffold:update_server_variate",
        },
    )
