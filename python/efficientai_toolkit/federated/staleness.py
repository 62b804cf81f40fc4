"""Weights of updates that were computed from an older model."""

import math
from typing import Literal

from efficientai_toolkit.exceptions import ConfigError

Staleness = Literal["constant", "polynomial", "hinge"]
"""How the weight falls with the number of model versions in between."""


def compute_staleness_weight(
    staleness: int, kind: Staleness = "polynomial", *, exponent: float = 0.5, grace: int = 4
) -> float:
    """Compute the factor of an update that is ``staleness`` versions of the model old.

    ============== ======================================================== =================================
    ``kind``       factor
    ============== ======================================================== =================================
    ``constant``   1
    ``polynomial`` ``(1 + staleness)^-exponent``                            FedBuff (0.5) and FedAsync
    ``hinge``      1 up to ``grace``, then ``1 / (exponent·(s - grace) + 1)`` FedAsync, arXiv:1903.03934
    ============== ======================================================== =================================

    FedBuff (`arXiv:2106.06639 <https://arxiv.org/abs/2106.06639>`_) multiplies each update of a full buffer
    by it and takes their plain mean; FedAsync mixes each update with the model at once, see :func:`mix_rate`.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    """
    if staleness < 0:
        message = f"staleness is {staleness}, but an update cannot be of a later model"
        raise ConfigError(message)
    if not (math.isfinite(exponent) and exponent >= 0):
        message = f"exponent is {exponent}, expected 0 or a positive number"
        raise ConfigError(message)
    match kind:
        case "constant":
            return 1.0
        case "polynomial":
            return float((1 + staleness) ** -exponent)
        case "hinge":
            return 1.0 if staleness <= grace else 1 / (exponent * (staleness - grace) + 1)
        case _:
            message = f"kind is {kind!r}, expected 'constant', 'polynomial' or 'hinge'"
            raise ConfigError(message)


def mix_rate(rate: float, staleness: int, kind: Staleness = "polynomial", *, exponent: float = 0.5) -> float:
    """Compute the share of a client's model in that of the server in FedAsync, ``rate`` for a fresh one.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    """
    if not 0 < rate <= 1:
        message = f"rate is {rate}, expected above 0 and at most 1"
        raise ConfigError(message)
    return rate * compute_staleness_weight(staleness, kind, exponent=exponent)
