"""Differential privacy of clients: clipping, noise, accounting, and a budget that ends a run.

>>> from efficientai_toolkit.federated import privacy
>>> privacy.epsilon(1.0, sampling_rate=0.01, rounds=1000, delta=1e-5)  # doctest: +SKIP
1.828
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.federated.privacy.accounting import compose, epsilon, noise_multiplier
    from efficientai_toolkit.federated.privacy.budget import Budget, BudgetExceededError
    from efficientai_toolkit.federated.privacy.clipping import AdaptiveClip, clip, compute_norm
    from efficientai_toolkit.federated.privacy.noise import PrivateSum, add_noise

__all__ = [
    "AdaptiveClip",
    "Budget",
    "BudgetExceededError",
    "PrivateSum",
    "add_noise",
    "clip",
    "compose",
    "compute_norm",
    "epsilon",
    "noise_multiplier",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "AdaptiveClip": "federated.privacy.clipping:AdaptiveClip",
            "Budget": "federated.privacy.budget:Budget",
            "BudgetExceededError": "federated.privacy.budget:BudgetExceededError",
            "PrivateSum": "federated.privacy.noise:PrivateSum",
            "add_noise": "federated.privacy.noise:add_noise",
            "clip": "federated.privacy.clipping:clip",
            "compose": "federated.privacy.accounting:compose",
            "compute_norm": "federated.privacy.clipping:compute_norm",
            "epsilon": "federated.privacy.accounting:epsilon",
            "noise_multiplier": "federated.privacy.accounting:noise_multiplier",
        },
    )
