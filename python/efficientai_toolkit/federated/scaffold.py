"""Control variates of SCAFFOLD, which correct the drift of clients with unlike data.

Karimireddy et al. 2020, `arXiv:1910.06378 <https://arxiv.org/abs/1910.06378>`_. A client steps along
``gradient - cᵢ + c`` with its variate ``cᵢ`` and that of the server ``c``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.aggregation import aggregate
from efficientai_toolkit.federated.arrays import Layout, Update


def update_client_variate(
    variate: Update, server_variate: Update, start: Update, end: Update, *, steps: int, learning_rate: float
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the new variate of a client, ``cᵢ - c + (start - end) / (steps · learning_rate)``.

    Parameters
    ----------
    variate, server_variate
        Variates before the round; zeros at first.
    start, end
        Model before and after the local steps.
    steps, learning_rate
        Of the client in this round.

    Raises
    ------
    ConfigError
        If arrays do not fit together, or steps or learning rate are not positive.
    """
    if steps < 1 or not learning_rate > 0:
        message = f"steps is {steps} and learning_rate {learning_rate}, expected positive numbers"
        raise ConfigError(message)
    layout = Layout.of(start, "start")
    parts = {"variate": variate, "server_variate": server_variate, "start": start, "end": end}
    for name, part in parts.items():
        layout.read(part, name)
    rate = 1 / (steps * learning_rate)
    wide = {
        name: [np.asarray(part[name]).astype(np.float64) for part in parts.values()] for name in layout.names
    }
    return {
        name: (own - server + rate * (before - after)).astype(layout.dtypes[name])
        for name, (own, server, before, after) in wide.items()
    }


def update_server_variate(
    server_variate: Update, changes: Sequence[Update], *, clients: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the new variate of the server, ``c + |S|/N · mean(cᵢ' - cᵢ)``.

    Parameters
    ----------
    server_variate
        Variate before the round.
    changes
        Change of the variate of every client of the round.
    clients
        Number of all clients, ``N``.

    Raises
    ------
    ConfigError
        If arrays do not fit together, or there are fewer clients than changes.
    """
    if clients < len(changes):
        message = f"clients is {clients}, fewer than the {len(changes)} changes of a round"
        raise ConfigError(message)
    layout = Layout.of(server_variate, "server_variate")
    mean = aggregate(changes)
    layout.read(mean, "changes")
    share = len(changes) / clients
    return {
        name: (
            np.asarray(server_variate[name]).astype(np.float64) + share * mean[name].astype(np.float64)
        ).astype(dtype)
        for name, dtype in layout.dtypes.items()
    }
