"""Bodies of ``/jobs``."""

from typing import Annotated, Any

from pydantic import Field

from efficientai_toolkit.jobs.queue import MAX_PRIORITY
from efficientai_toolkit.server.protocol.common import Body


class SubmitRequest(Body):
    """A new job; ``GET /jobs/kinds`` tells the kinds and their settings."""

    kind: Annotated[str, Field(max_length=100)]
    settings: Annotated[dict[str, Any], Field(default_factory=dict)]
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
