"""How handlers are called."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

POLL_SECS = 1.5
"""Time after which a tab shows what is new."""

QUIET: Mapping[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of handlers that answer at once, and are no endpoint for clients: those use the server's routes."""


class Refresh(NamedTuple):
    """What a tab does when it opens: it offers what there is by now."""

    call: Callable[..., Any]
    inputs: Sequence[Any]
    outputs: Sequence[Any]


class Tab(Protocol):
    """A tab of the page."""

    def build(self) -> Refresh:
        """Build the components; return what is done when the page or the tab opens."""
        ...
