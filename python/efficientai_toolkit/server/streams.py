"""Server-sent events."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from efficientai_toolkit.server.errors import ANTHROPIC, as_api_error, dump_json

DONE = format_sse_event(data_str="[DONE]")
"""The end of OpenAI's streams."""


def encode_event(value: Mapping[str, Any], event: str | None = None) -> bytes:
    """Return the bytes of an event."""
    return format_sse_event(data_str=dump_json(value), event=event)


STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "text/event-stream": {}}}
}
"""Responses of a route that streams if it is asked to."""


class Closable(Protocol):
    """What is given up when its stream ends."""

    def close(self) -> None:
        """Cancel what still runs."""


class EventStream(EventSourceResponse):
    """A stream of events that closes its generation, however it ends."""

    def __init__(self, events: AsyncIterator[bytes], generation: Closable, path: str) -> None:
        super().__init__(
            _with_errors(events, path), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.close()


async def _with_errors(events: AsyncIterator[bytes], path: str) -> AsyncIterator[bytes]:
    """Report an error as an event: the status was sent long ago."""
    try:
        async for event in events:
            yield event
    except Exception as error:  # noqa: BLE001 (every one)
        body = as_api_error(error).describe(path)
        yield encode_event(body, "error" if path.startswith(ANTHROPIC) else None)
