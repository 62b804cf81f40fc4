"""``/jobs``: long work in the workspace of the server, and its events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Header, Query, WebSocket
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from efficientai_toolkit.jobs.job import State
from efficientai_toolkit.jobs.kinds import KINDS
from efficientai_toolkit.jobs.queue import Jobs
from efficientai_toolkit.jobs.schema import describe_settings
from efficientai_toolkit.jobs.store import MAX_ID
from efficientai_toolkit.server.errors import ApiError, JsonResponse, as_api_error, dump_json
from efficientai_toolkit.server.followers import Follower, Followers
from efficientai_toolkit.server.generation import Service
from efficientai_toolkit.server.protocol.jobs import SubmitRequest
from efficientai_toolkit.server.streams import STREAMED, EventStream

PREFIX = "/jobs"
"""Paths that need a key with the right to administer."""

_MAX_LISTED = 1000

After = Annotated[int, Query(ge=0, le=MAX_ID)]
"""Number of the last event that a client knows."""

_REFUSED = 1008
"""Code of a WebSocket that is closed because of what its client asked for."""


def create_router(service: Service, jobs: Jobs | None) -> APIRouter:
    """Create the routes."""
    router = APIRouter(prefix=PREFIX)
    if jobs is None:
        _explain_absence(router)
    else:
        _add_jobs(router, jobs)
        _add_events(router, jobs, Followers(jobs, service))
    return router


def _explain_absence(router: APIRouter) -> None:
    methods = ["GET", "POST", "DELETE"]

    @router.api_route("", methods=methods, include_in_schema=False)
    @router.api_route("/{path:path}", methods=methods, include_in_schema=False)
    def explain() -> Response:  # pyright: ignore[reportUnusedFunction]
        message = "this server has no workspace for jobs; start it with --workspace FOLDER"
        raise ApiError(message, status=404)


def _add_jobs(router: APIRouter, jobs: Jobs) -> None:
    kinds = [
        {"name": kind.name, "summary": kind.summary, "settings": describe_settings(kind)}
        for kind in KINDS.values()
    ]

    @router.get("/kinds")
    async def list_kinds() -> Response:  # pyright: ignore[reportUnusedFunction]
        """List the kinds of jobs, with the JSON schemas of their settings."""
        return JsonResponse({"kinds": kinds})

    @router.post("")
    def submit_job(body: SubmitRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Queue a job; paths in its settings are relative to the workspace."""
        job = jobs.submit(body.kind, body.settings, priority=body.priority)
        return JsonResponse(asdict(job), status_code=201)

    @router.get("")
    def list_jobs(  # pyright: ignore[reportUnusedFunction]
        state: Annotated[list[State] | None, Query()] = None,
        kind: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=_MAX_LISTED)] = 100,
    ) -> Response:
        """List jobs, the newest first."""
        found = jobs.list(states=state or (), kind=kind, limit=limit)
        return JsonResponse({"jobs": [asdict(job) for job in found]})

    @router.get("/{job_id}")
    def read_job(job_id: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Describe a job."""
        return JsonResponse(asdict(jobs.get(job_id)))

    @router.post("/{job_id}/cancel")
    def cancel_job(job_id: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Cancel a job; a running one is interrupted, and keeps its last checkpoint."""
        return JsonResponse(asdict(jobs.cancel(job_id)))

    @router.post("/{job_id}/resume")
    def resume_job(job_id: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Queue a cancelled or failed job again; it continues from its last checkpoint."""
        return JsonResponse(asdict(jobs.resume(job_id)))

    @router.delete("/{job_id}")
    def delete_job(job_id: int, *, files: bool = False) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Forget a job that does not run; with ``files``, remove its output folder too."""
        jobs.delete(job_id, files=files)
        return JsonResponse({"id": job_id, "deleted": True})


def _add_events(router: APIRouter, jobs: Jobs, followers: Followers) -> None:
    @router.get("/{job_id}/events", responses=STREAMED | {204: {"description": "No more events follow."}})
    async def follow_job(  # pyright: ignore[reportUnusedFunction]
        job_id: int,
        after: After = 0,
        last_event_id: Annotated[int | None, Header(ge=0, le=MAX_ID)] = None,
        *,
        follow: bool = True,
    ) -> Response:
        """Stream the events after a number as server-sent events, and those to come."""
        after = after if last_event_id is None else last_event_id
        events, is_complete = await asyncio.to_thread(jobs.read_on, job_id, after, limit=1)
        if is_complete and not events:
            # Tells a browser to stop asking.
            return Response(status_code=204)
        follower = followers.open(job_id, after, follow=follow)
        return EventStream(_encode(follower), follower, PREFIX)

    @router.websocket("/{job_id}/ws")
    async def follow_job_by_socket(  # pyright: ignore[reportUnusedFunction]
        socket: WebSocket, job_id: int, after: After = 0
    ) -> None:
        await socket.accept()
        try:
            follower = followers.open(job_id, after)
        except ApiError as error:
            await _refuse(socket, error)
            return
        try:
            await _send_events(socket, follower)
        except Exception as error:  # noqa: BLE001 (every one)
            await _refuse(socket, error)
        finally:
            follower.close()


async def _encode(follower: Follower) -> AsyncIterator[bytes]:
    async for page in follower:
        if not page:
            yield KEEPALIVE_COMMENT
        for event in page:
            yield format_sse_event(data_str=dump_json(asdict(event)), id=str(event.number))


async def _send_events(socket: WebSocket, follower: Follower) -> None:
    """Send events until there are no more, or the client has left; what it sends is ignored."""

    async def send() -> None:
        async for page in follower:
            for event in page:
                await socket.send_text(dump_json(asdict(event)))
        await socket.close()

    async def listen() -> None:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass

    tasks = {asyncio.create_task(send()), asyncio.create_task(listen())}
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()


async def _refuse(socket: WebSocket, error: Exception) -> None:
    """Say what is wrong, as the body of a response would, and close."""
    with suppress(RuntimeError, WebSocketDisconnect):
        await socket.send_text(dump_json(as_api_error(error).describe()))
        await socket.close(_REFUSED)
