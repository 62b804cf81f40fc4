"""Reports of rounds."""

from dataclasses import asdict, dataclass, field
from typing import Any

from efficientai_toolkit._base.display import Displayed


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ClientReport(Displayed):
    """What one client did in a round."""

    node: int
    """Identifier of its node."""
    accepted: bool
    """Whether its update counted."""
    reason: str | None = None
    """Why it did not."""
    examples: float = 0.0
    loss: float | None = None
    """Its training loss, as it says."""
    norm: float | None = None
    """Euclidean norm of its update over all arrays."""
    suspicion: float | None = None
    """How far the norm is from the others': from their median, in units of their deviation."""
    seconds: float = 0.0
    """Its training time, as it says, or that from the start of the round to its reply."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RoundReport(Displayed):
    """What happened in a round."""

    round: int
    """1-based."""
    selected: list[int]
    """Nodes that were asked."""
    clients: list[ClientReport]
    """Those that replied, and those that did not."""
    applied: bool
    """Whether the global arrays changed."""
    seconds: float
    """Wall time without evaluation."""
    received_bytes: int
    """Bytes of the arrays that were received."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Mean training metrics of the clients that counted, and those of the evaluation."""
    note: str | None = None
    """Why nothing was applied."""

    @property
    def accepted(self) -> int:
        """Number of updates that counted."""
        return sum(client.accepted for client in self.clients)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RoundReport":
        """Create a report from :meth:`to_dict`."""
        known: dict[str, Any] = {
            **values,
            "clients": [ClientReport(**client) for client in values["clients"]],
        }
        return cls(**known)
