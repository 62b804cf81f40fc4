"""Which clients train in a round.

Power of choice: those with the highest loss of a random subset (Cho et al. 2020, arXiv:2010.01243). Utility:
loss and speed of those that were seen, and some that were not, as in Oort
(Lai et al. 2021, arXiv:2010.06081).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Selection = Literal["random", "poisson", "power_of_choice", "utility"]
"""How clients are selected."""

_EXPLORED = 0.2
"""Share of a round for clients that were never seen, with ``utility``."""
_STALENESS = 0.1
_SLOWNESS = 2.0
"""Exponent of the penalty for clients slower than the median."""


@dataclass(kw_only=True, slots=True)
class ClientRecord:
    """What the server knows of a client."""

    loss: float | None = None
    """Its last training loss."""
    examples: float = 0.0
    seconds: float | None = None
    """Time of its last reply."""
    last_round: int = 0
    selected: int = 0
    replied: int = 0

    @property
    def reliability(self) -> float:
        """Share of its selections that it replied to; an optimistic one while it is unknown."""
        return (self.replied + 1) / (self.selected + 1)


@dataclass(kw_only=True, slots=True)
class Selector:
    """Selection of clients.

    Parameters
    ----------
    kind
        ``random``; ``poisson``: each with the same probability, as privacy accounting assumes;
        ``power_of_choice``; ``utility``.
    seed
        Random seed; rounds draw from it independently of each other, so that a resumed run selects the same.
    candidates
        Size of the subset of ``power_of_choice``, as a multiple of the selected ones.
    """

    kind: Selection = "random"
    seed: int = 0
    candidates: float = 2.0
    clients: dict[int, ClientRecord] = field(default_factory=dict[int, ClientRecord])

    def select(self, nodes: Sequence[int], count: int, round_number: int) -> list[int]:
        """Return ``count`` of the nodes; for ``poisson`` as many on average."""
        random: Any = np.random.default_rng([self.seed, round_number])
        known = sorted(nodes)
        count = min(count, len(known))
        chosen: list[int]
        match self.kind:
            case "random":
                chosen = [known[place] for place in random.permutation(len(known))[:count]]
            case "poisson":
                chosen = [node for node in known if random.random() < count / len(known)]
            case "power_of_choice":
                among: list[int] = random.permutation(len(known))[
                    : max(count, round(count * self.candidates))
                ]
                chosen = sorted((known[place] for place in among), key=self._loss, reverse=True)[:count]
            case "utility":
                chosen = self._by_utility(random, known, count, round_number)
        for node in chosen:
            self._record(node).selected += 1
        return sorted(chosen)

    def observe(
        self, node: int, *, round_number: int, loss: float | None, examples: float, seconds: float
    ) -> None:
        """Remember a reply."""
        record = self._record(node)
        record.loss = loss
        record.examples = examples
        record.seconds = seconds
        record.last_round = round_number
        record.replied += 1

    def _record(self, node: int) -> ClientRecord:
        return self.clients.setdefault(node, ClientRecord())

    def _loss(self, node: int) -> float:
        # Those that were never seen come first.
        loss = self._record(node).loss
        return math.inf if loss is None else loss

    def _by_utility(self, random: Any, nodes: list[int], count: int, round_number: int) -> list[int]:
        new = [node for node in nodes if self._record(node).loss is None]
        seen = [node for node in nodes if self._record(node).loss is not None]
        explored = max(math.ceil(_EXPLORED * count) if new else 0, count - len(seen))
        picked: list[int] = [new[place] for place in random.permutation(len(new))[:explored]]
        times = [record.seconds for record in self.clients.values() if record.seconds is not None]
        usual = float(np.median(times)) if times else 0.0
        best = sorted(seen, key=lambda node: self._utility(node, usual, round_number), reverse=True)
        return picked + best[: count - len(picked)]

    def _utility(self, node: int, usual: float, round_number: int) -> float:
        record = self._record(node)
        value = math.sqrt(record.examples) * (record.loss or 0.0)
        # What was seen long ago may have changed.
        value *= 1 + math.sqrt(_STALENESS * math.log(round_number + 1) / max(record.last_round, 1))
        if record.seconds is not None and record.seconds > usual > 0:
            value *= (usual / record.seconds) ** _SLOWNESS
        return value * record.reliability

    def to_dict(self) -> dict[str, Any]:
        """Return what was observed as plain values."""
        return {str(node): asdict(record) for node, record in self.clients.items()}

    def restore(self, values: dict[str, Any]) -> None:
        """Take over what :meth:`to_dict` returned."""
        self.clients = {int(node): ClientRecord(**record) for node, record in values.items()}
