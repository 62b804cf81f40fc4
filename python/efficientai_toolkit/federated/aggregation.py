"""From the updates of a round to one."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.arrays import Layout, Update


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregate:
    """Aggregate of a round, and how it came about."""

    arrays: dict[str, np.ndarray[Any, Any]]
    """Result by name, in the dtypes of the updates."""
    dropped: list[int]
    """Clients whose updates were not finite, by number."""
    shares: list[float] | None
    """Share of every client in the result; ``None`` for rules that decide by coordinate."""
    scores: list[float] | None
    """Score of every client, where the rule gives one: the lower, the more it is like the others."""


def aggregate(
    updates: Iterable[Update],
    weights: Sequence[float] | None = None,
    rule: str = "fedavg",
    *,
    clients: Sequence[str] | None = None,
    reference: Update | None = None,
    **options: Any,
) -> dict[str, np.ndarray[Any, Any]]:
    """Aggregate the updates of a round.

    Everything is computed in float64 and rounded once to the dtype of the updates.

    ===================== ================================================== ===================
    ``rule``              result                                             options
    ===================== ================================================== ===================
    ``fedavg``            weighted mean
    ``median``            median of each coordinate
    ``trimmed_mean``      mean of each coordinate without its extremes       ``f`` or ``beta``
    ``krum``              the update nearest to its neighbours, n ≥ 2f+3      ``f``
    ``multi_krum``        weighted mean of the ``m`` such updates, n ≥ 2f+3   ``f``, ``m`` (n-f-2)
    ``bulyan``            mean around the median of Krum's choice, n ≥ 4f+3   ``f``
    ``geometric_median``  point with the least weighted sum of distances     ``iterations``
    ``centered_clipping`` mean of differences from the reference, clipped    ``tau``, ``iterations``
    ``fltrust``           differences as far as they agree with the server's
                          own update, which is the last
    ===================== ================================================== ===================

    ``f`` is the number of updates that may be hostile, ``beta`` a fraction.

    Parameters
    ----------
    updates
        Arrays by name, one dictionary per client, of equal names, shapes and dtypes: float64, float32,
        float16, bfloat16 or integers.
    weights
        Weight of every client, such as its number of examples; equal by default. Median, trimmed mean and
        other rules that must not believe a client refuse unequal ones.
    rule
        Rule from the table.
    clients
        Names of the clients in errors.
    reference
        What updates are measured from in ``centered_clipping`` and ``fltrust``, such as the model of the
        round; by default zero, for updates that are differences.
    **options
        Options of the rule, and for every rule:

        - ``on_invalid``: ``"error"`` or ``"drop"``, for clients with NaN or infinite numbers.
        - ``pre_aggregation``: ``"nnm"`` gives the rule means of the n-``f`` nearest updates, ``"bucketing"``
          those of groups of ``bucket_size`` drawn with ``seed``.

    Returns
    -------
    dict of str to numpy.ndarray
        Result by name, in the dtypes of the updates.

    Raises
    ------
    ConfigError
        If an option is unknown or does not fit the number of clients, or an update is not like the others
        or not finite; the message names client and tensor.
    """
    return aggregate_with_report(
        updates, weights, rule, clients=clients, reference=reference, **options
    ).arrays


def aggregate_with_report(
    updates: Iterable[Update],
    weights: Sequence[float] | None = None,
    rule: str = "fedavg",
    *,
    clients: Sequence[str] | None = None,
    reference: Update | None = None,
    **options: Any,
) -> Aggregate:
    """Aggregate the updates of a round as :func:`aggregate`, and tell who counted.

    Returns
    -------
    Aggregate
    """
    from efficientai_toolkit._engine.core import core

    updates = list(updates)
    if not updates:
        message = "updates is empty, expected one dictionary of arrays per client"
        raise ConfigError(message)
    names = [f"client {number}" for number in range(len(updates))] if clients is None else list(clients)
    if len(names) != len(updates):
        message = f"clients has {len(names)} names for {len(updates)} updates"
        raise ConfigError(message)
    layout = Layout.of(updates[0], names[0])
    arrays, report = core.federated.aggregate(
        layout.names,
        layout.engine_dtypes,
        names,
        [layout.read(update, name) for update, name in zip(updates, names, strict=True)],
        None if weights is None else [float(weight) for weight in weights],
        None if reference is None else layout.read(reference, "reference"),
        rule,
        {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()},
    )
    return Aggregate(arrays=layout.write(arrays), **json.loads(report))


class Accumulator:
    """Weighted mean of updates that come one by one.

    The memory is that of one update in float64, however many come.

    >>> mean = Accumulator()
    >>> mean.add({"w": np.float32([1, 2])}, weight=1)
    >>> mean.add({"w": np.float32([4, 5])}, weight=2)
    >>> mean.average()
    {'w': array([3., 4.], dtype=float32)}
    """

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._sums: Any = None

    def add(self, update: Update, weight: float = 1.0, client: str | None = None) -> None:
        """Add the update of ``client``.

        Raises
        ------
        ConfigError
            If it is not like earlier ones or not finite; nothing of it is counted then.
        """
        from efficientai_toolkit._engine.core import core

        name = f"client {self.count}" if client is None else client
        layout = Layout.of(update, name) if self._layout is None else self._layout
        arrays = layout.read(update, name)
        sums = core.federated.Accumulator(layout.names, layout.lengths) if self._sums is None else self._sums
        sums.add(name, arrays, layout.engine_dtypes, float(weight))
        self._layout, self._sums = layout, sums

    @property
    def count(self) -> int:
        """Number of updates so far."""
        return 0 if self._sums is None else self._sums.count

    @property
    def weight(self) -> float:
        """Sum of their weights."""
        return 0.0 if self._sums is None else self._sums.weight

    def average(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the mean so far, in the dtypes of the updates.

        Raises
        ------
        ConfigError
            If no update was added.
        """
        if self._layout is None:
            message = "no update was added, so that there is no average"
            raise ConfigError(message)
        return self._layout.write(self._sums.average(self._layout.engine_dtypes))
