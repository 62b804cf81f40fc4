"""The routes of jobs: submitted and followed over HTTP, events once and in order, guarded."""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.keys import create_key
from support.server import Running, running
from support.workspace import TINY, write_rows

RECONNECTS = 10


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("jobs") / "space")


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[Running]:
    with running(ServeConfig(workspace=str(workspace), max_body="200KB")) as found:
        yield found


@pytest.fixture(scope="module")
def finished(server: Running) -> dict[str, Any]:
    """A job that has ended."""
    job = submit(server, TINY | {"iters": 20})
    while True:
        found: dict[str, Any] = server.client.get(f"/jobs/{job['id']}").json()
        if found["ended"] is not None:
            assert found["state"] == "finished", found
            return found
        time.sleep(0.1)


def submit(server: Running, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    response = server.post("/jobs", {"kind": "train", "settings": settings, **more})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


def read_sse(lines: Iterator[str], count: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Events with their ids, ``count`` of them or all."""
    number, text, sent = None, None, 0
    for line in lines:
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            text = line[6:]
        elif not line and number is not None and text is not None:
            yield number, json.loads(text)
            number, text, sent = None, None, sent + 1
            if sent == count:
                return


def test_a_client_that_comes_back_sees_every_event_once(server: Running, finished: dict[str, Any]) -> None:
    job = submit(server, TINY | {"iters": 20})
    path = f"/jobs/{job['id']}/events"
    seen: list[tuple[int, dict[str, Any]]] = []
    for attempt in range(RECONNECTS + 1):
        # The address keeps its `after`, as that of a browser does.
        headers = {"Last-Event-ID": str(seen[-1][0])} if seen else {}
        with server.client.stream("GET", path, params={"after": 0}, headers=headers) as response:
            assert response.status_code == 200
            seen += read_sse(response.iter_lines(), 2 if attempt < RECONNECTS else None)
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert [event["number"] for _, event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][1]["data"] == {"event": "state", "state": "finished"}
    steps = [event["data"]["step"] for _, event in seen if event["data"]["event"] == "step"]
    assert steps == list(range(1, 21))
    # A browser stops asking.
    response = server.client.get(path, headers={"Last-Event-ID": str(len(seen))})
    assert response.status_code == 204
    assert finished["id"] != job["id"]


def test_a_socket_that_comes_back_sees_every_event_once(server: Running) -> None:
    job = submit(server, TINY | {"iters": 20})
    url = f"{server.url.replace('http', 'ws')}/jobs/{job['id']}/ws"
    seen: list[dict[str, Any]] = []
    for attempt in range(RECONNECTS + 1):
        with connect(f"{url}?after={len(seen)}") as socket:
            # What a client sends is ignored.
            socket.send("hello")
            part = itertools.islice(socket, 2 if attempt < RECONNECTS else None)
            seen += [json.loads(text) for text in part]
    assert [event["number"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["data"] == {"event": "state", "state": "finished"}
    with server.client.stream("GET", f"/jobs/{job['id']}/events") as response:
        assert [event for _, event in read_sse(response.iter_lines())] == seen


def test_events_are_replayed_from_any_number(server: Running, finished: dict[str, Any]) -> None:
    path, last = f"/jobs/{finished['id']}/events", finished["events"]
    with server.client.stream("GET", path, params={"after": last - 3}) as response:
        assert [number for number, _ in read_sse(response.iter_lines())] == [last - 2, last - 1, last]
    waiting = submit(server, TINY, priority=-5)
    with server.client.stream("GET", f"/jobs/{waiting['id']}/events?follow=false") as response:
        assert next(event["data"]["state"] for _, event in read_sse(response.iter_lines())) == "queued"
    server.post(f"/jobs/{waiting['id']}/cancel", {})


def test_jobs_are_listed_and_ended(server: Running, finished: dict[str, Any]) -> None:
    blocker = submit(server, TINY | {"iters": 100_000, "save_every": 1000})
    with server.client.stream("GET", f"/jobs/{blocker['id']}/events") as response:
        next(event for _, event in read_sse(response.iter_lines()) if event["data"]["event"] == "step")
    waiting = submit(server, TINY, priority=3)
    listed = server.client.get("/jobs", params={"state": "queued"}).json()["jobs"]
    assert [job["id"] for job in listed] == [waiting["id"]]
    assert server.client.delete(f"/jobs/{blocker['id']}").status_code == 409
    for job in (waiting, blocker):
        assert server.post(f"/jobs/{job['id']}/cancel", {}).status_code == 200
        with server.client.stream("GET", f"/jobs/{job['id']}/events") as response:
            *_, (_, last) = read_sse(response.iter_lines())
        assert last["data"]["state"] == "cancelled"
        assert server.post(f"/jobs/{job['id']}/cancel", {}).status_code == 409
    assert server.post(f"/jobs/{finished['id']}/resume", {}).status_code == 409
    folder = Path(server.app.state.jobs.workspace.path) / blocker["output"]
    assert list(folder.glob("checkpoints/step-*"))
    assert server.client.delete(f"/jobs/{blocker['id']}?files=true").status_code == 200
    assert not folder.exists()
    assert server.client.get(f"/jobs/{blocker['id']}").status_code == 404
    assert server.client.get(f"/jobs/{blocker['id']}/events").status_code == 404


def test_kinds_have_schemas(server: Running) -> None:
    kinds = {kind["name"]: kind for kind in server.client.get("/jobs/kinds").json()["kinds"]}
    assert {"train", "optimize", "compare", "evaluate", "quantize"} <= kinds.keys()
    for kind in kinds.values():
        jsonschema_rs.meta.validate(kind["settings"])
    validator = jsonschema_rs.Draft202012Validator(kinds["train"]["settings"])
    assert validator.is_valid(TINY)
    assert not validator.is_valid({"method": "magic"})
    assert not validator.is_valid({"output": "x"})


def test_a_served_model_may_be_named(server: Running) -> None:
    settings = {"model_path": "embedded", "metrics": ["perplexity"], "limit": 2}
    job = server.post("/jobs", {"kind": "evaluate", "settings": settings}).json()
    with server.client.stream("GET", f"/jobs/{job['id']}/events") as response:
        list(read_sse(response.iter_lines()))
    found = server.client.get(f"/jobs/{job['id']}").json()
    assert found["result"]["metrics"]["perplexity"] > 1, found


def test_without_a_workspace_there_are_no_jobs() -> None:
    with running(ServeConfig(), waits=False) as server:
        for path in ("/jobs", "/jobs/1/events", "/jobs/kinds"):
            response = server.client.get(path)
            assert response.status_code == 404
            assert "start it with --workspace FOLDER" in response.json()["error"]["message"]


def test_the_guard_holds_for_jobs_and_sockets(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    user = create_key(keys, "user", is_admin=False)
    admin = create_key(keys, "admin", is_admin=True)
    config = ServeConfig(workspace=str(write_rows(tmp_path / "space")), api_key_file=str(keys))

    def ask(headers: dict[str, str]) -> tuple[int, int]:
        """The statuses of a request and of a socket."""
        status = httpx.get(f"{server.url}/jobs", headers=headers).status_code
        origin = headers.get("Origin")
        rest = {name: value for name, value in headers.items() if name != "Origin"}
        try:
            with connect(f"{url}/jobs/1/ws", additional_headers=rest, origin=origin) as socket:  # type: ignore[arg-type]
                assert "there is no job 1" in json.loads(socket.recv())["error"]["message"]
            return status, 101
        except InvalidStatus as refused:
            return status, refused.response.status_code

    with running(config, waits=False) as server:
        url = server.url.replace("http", "ws")
        allowed = {"Authorization": f"Bearer {admin}"}
        assert ask(allowed) == (200, 101)
        assert ask(allowed | {"Origin": server.url}) == (200, 101)
        assert ask({}) == (401, 401)
        assert ask({"Authorization": "Bearer eat-wrong"}) == (401, 401)
        assert ask({"x-api-key": user}) == (403, 403)
        assert ask(allowed | {"Origin": "https://evil.example"}) == (403, 403)
        assert httpx.get(f"{server.url}/jobs", headers=allowed | {"Host": "evil.example"}).status_code == 403
