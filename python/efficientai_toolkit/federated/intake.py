"""The replies of a round, taken in one at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.federated.replies import Arrays, BadReplyError, Update, read_update
from efficientai_toolkit.federated.rounds import ClientReport
from efficientai_toolkit.federated.rules import Combiner, Rule

if TYPE_CHECKING:
    from flwr.app import Message
    from numpy.typing import NDArray

_ALIKE = 3
"""Number of updates from which on one can stand out."""


class Intake:
    """Checks replies and gives their updates to the rule.

    Parameters
    ----------
    rule
        How updates become one.
    base
        The global arrays that the clients started from.
    round_number
        Round of the messages.
    selected
        Nodes that were asked.
    weighted_by
        Metric with the number of examples.
    max_examples
        Largest number of examples that a client may claim.
    combiner
        Takes the updates in place of the rule.
    """

    def __init__(
        self,
        rule: Rule,
        base: Mapping[str, "NDArray[Any]"],
        *,
        round_number: int,
        selected: Sequence[int],
        weighted_by: str,
        max_examples: float | None,
        combiner: Combiner | None = None,
    ) -> None:
        self._rule = rule
        self._base = base
        self._round = str(round_number)
        self._selected = selected
        self._weighted_by = weighted_by
        self._max_examples = max_examples
        self._combiner = combiner or rule.start()
        self._sums: dict[str, tuple[float, float]] = {}
        self.reports: list[ClientReport] = []
        """Reports in the order of the replies."""
        self.received_bytes = 0

    @property
    def accepted(self) -> int:
        """Number of updates so far."""
        return sum(report.accepted for report in self.reports)

    def take(self, message: "Message", *, seconds: float) -> None:
        """Take a reply in; one that cannot be used is remembered with its reason."""
        node = message.metadata.src_node_id
        try:
            self._check_sender(message, node)
            update = read_update(
                message, self._base, weighted_by=self._weighted_by, max_examples=self._max_examples
            )
        except BadReplyError as error:
            self.reports.append(ClientReport(node=node, accepted=False, reason=str(error), seconds=seconds))
            return
        change = {name: subtract(update.arrays[name], base) for name, base in self._base.items()}
        norm = math.sqrt(sum(float(np.vdot(array, array)) for array in map(_flat, change.values())))
        self.received_bytes += sum(array.nbytes for array in update.arrays.values())
        self._combiner.add(change, update.examples, node)
        self._add_metrics(update)
        self.reports.append(
            ClientReport(
                node=node,
                accepted=True,
                examples=update.examples,
                loss=update.metrics.get("loss"),
                norm=norm,
                # Clients of one process answer in turns; how long each took it knows better.
                seconds=update.metrics.get("train-seconds", seconds),
            )
        )

    def _check_sender(self, message: "Message", node: int) -> None:
        metadata = message.metadata
        if self._selected and node not in self._selected:
            problem = "it was not asked in this round"
            raise BadReplyError(problem)
        if metadata.group_id not in {"", self._round}:
            problem = f"a reply of round {metadata.group_id}, repeated in round {self._round}"
            raise BadReplyError(problem)
        if any(report.node == node for report in self.reports):
            problem = "a second reply in the same round"
            raise BadReplyError(problem)

    def _add_metrics(self, update: Update) -> None:
        for name, value in update.metrics.items():
            if math.isfinite(value):
                total, weight = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = (total + update.examples * value, weight + update.examples)

    def combine(self) -> tuple[Arrays | None, str | None]:
        """Return the change of the global arrays, or the reason why there is none."""
        if (reason := self._rule.refuse(self.accepted)) is not None:
            return None, reason
        return self._combiner.finish(), None

    def metrics(self) -> dict[str, float]:
        """Return the mean metrics of the updates, weighted by examples."""
        return {name: total / weight for name, (total, weight) in self._sums.items()}

    def finish(self) -> list[ClientReport]:
        """Return the reports, with suspicions, and of those that did not reply."""
        norms = [report.norm for report in self.reports if report.norm is not None]
        silent = set(self._selected) - {report.node for report in self.reports}
        missing = [
            ClientReport(node=node, accepted=False, reason="no reply in time") for node in sorted(silent)
        ]
        return [
            replace(report, suspicion=_suspicion(report.norm, norms)) for report in self.reports
        ] + missing


def _suspicion(norm: float | None, norms: Sequence[float]) -> float | None:
    if norm is None or len(norms) < _ALIKE:
        return None
    middle = float(np.median(norms))
    # 1.4826: the standard deviation of a normal distribution by its median deviation.
    spread = 1.4826 * float(np.median(np.abs(np.asarray(norms) - middle)))
    return abs(norm - middle) / max(spread, 1e-3 * middle, 1e-12)


def subtract(array: "NDArray[Any]", base: "NDArray[Any]") -> "NDArray[Any]":
    """Return the update of an array; small numbers keep 32 bits, whole numbers become floats."""
    if base.dtype.kind != "f":
        wide: np.dtype[Any] = np.dtype(np.float64)
    else:
        wide = np.result_type(base.dtype, np.float32)
    change: NDArray[Any] = array.astype(wide) - base.astype(wide)
    return change


def _flat(array: "NDArray[Any]") -> "NDArray[Any]":
    return array.reshape(-1).astype(np.float64, copy=False)
