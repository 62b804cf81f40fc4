"""Requests about jobs that nobody should send: each is told what is wrong, and nothing outside is touched."""

import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from efficientai_toolkit.jobs import KINDS, Jobs
from efficientai_toolkit.server.config import ServeConfig
from support.hostile_json import hostile_value
from support.server import Running, running
from support.workspace import TINY, write_rows

SECRET = "the secret outside"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a secret, and the workspace in it."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.jsonl").write_text(json.dumps({"text": SECRET}) + "\n")
    (folder / "secret").mkdir()
    (folder / "secret" / "train.jsonl").write_text(json.dumps({"text": SECRET}) + "\n")
    space = write_rows(folder / "space")
    (space / "link").symlink_to(folder)
    (space / "linked").mkdir()
    (space / "linked" / "train.jsonl").symlink_to(folder / "secret.jsonl")
    return folder


@pytest.fixture(scope="module")
def server(outside: Path) -> Iterator[Running]:
    config = ServeConfig(workspace=str(outside / "space"), max_body="64KB")
    with running(config) as found:
        # A job that lasts, so that no other one runs meanwhile.
        long = TINY | {"iters": 10_000_000, "save_every": 0}
        assert found.post("/jobs", {"kind": "train", "settings": long, "priority": 1000}).status_code == 201
        yield found


def hostile_path(rng: random.Random, outside: Path) -> str:
    """A path that leaves the workspace, or is none."""
    return rng.choice(
        (
            "../secret.jsonl", "../secret", "/etc/passwd", "/etc", "link/secret.jsonl", "link/secret",
            "linked", "linked/train.jsonl", "data/../../secret.jsonl", "./data/./../../secret",
            str(outside / "secret"),
            "~", "~root/x", "data/rows.jsonl,../secret.jsonl", "../secret.jsonl=2", "..", ".", "", "/",
            "runs/../..", "a\0b", "\ud800", "x" * 5000, "../" * 500, "//etc/passwd", "file:///etc/passwd",
            "https://example.com/x", "org/name", "..\\secret.jsonl", "%2e%2e/secret.jsonl",
            "/proc/self/environ", "/dev/zero",
        )
    )  # fmt: skip


def hostile_number(rng: random.Random) -> str:
    """What stands where the number of a job or an event belongs."""
    return rng.choice(
        ("0", "-1", "1.5", "1e3", "NaN", "x", "..", "%2e%2e", "9" * 30, "9" * 5000, "0x1", "%00", "1;drop",
         "1%20or%201", "kinds", "%F0%9F%92%A9", " ", "99999", str(2**63), str(2**63 - 1))
    )  # fmt: skip


def hostile_submission(rng: random.Random, outside: Path) -> Any:
    """The body of a wrong submission: a path outside, a wrong kind, a wrong value, or the wrong shape."""
    kind = rng.choice(list(KINDS))
    settings: dict[str, Any] = dict(TINY) if kind == "train" else {}
    body: dict[str, Any] = {"kind": kind, "settings": settings, "priority": rng.randrange(3)}
    known = KINDS[kind].list_settings()
    match rng.randrange(6):
        case 0 | 1:
            name = rng.choice(list(KINDS[kind].paths))
            path = hostile_path(rng, outside)
            settings[name] = [path] if known[name].repeated else path
        case 2:
            body["kind"] = rng.choice(
                ("rm", "os:system", "efficientai_toolkit.jobs.work.training:train", "../train", "Train", "",
                 "train\0", "x" * 99, "__class__", "subprocess:run", hostile_value(rng))
            )  # fmt: skip
        case 3:
            for _ in range(rng.randrange(1, 4)):
                settings[rng.choice(list(known))] = hostile_value(rng)
        case 4:
            wrong = rng.choice(("output", "resume", "overwrite", "__init__", "function", "", "a" * 1000))
            settings[wrong] = rng.choice(("/tmp/x", "../x", True, hostile_value(rng)))
        case _:
            body[rng.choice(list(body))] = hostile_value(rng)
    return body


def send(server: Running, rng: random.Random, outside: Path) -> None:
    """Send a hostile request, and check that it is told so, or harmless."""
    number = hostile_number(rng)
    path = f"/jobs/{number}{rng.choice(('', '/events', '/cancel', '/resume', '/ws', '/x'))}"
    headers: dict[str, str] = {}
    match rng.randrange(5):
        case 0 | 1 | 2:
            content = json.dumps(hostile_submission(rng, outside)).encode()
            if rng.random() < 0.15:
                at = rng.randrange(len(content))
                junk = rng.choice((b"", b"\xff", b"[" * 5000, b"NaN", b'"', b"x" * 70_000))
                content = content[:at] + junk + content[at + 1 :]
            headers["Content-Type"] = rng.choice(("application/json",) * 8 + ("text/plain",))
            response = server.client.post("/jobs", content=content, headers=headers)
        case 3:
            method = rng.choice(("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD"))
            if method != "HEAD":
                headers["Last-Event-ID"] = quote(hostile_number(rng))
            query = {"after": hostile_number(rng), "files": "true", "follow": rng.choice(("false", "maybe"))}
            response = server.client.request(method, path, params=query, headers=headers)
        case _:
            query = {rng.choice(("state", "kind", "limit", "after")): hostile_number(rng)}
            response = server.client.get(rng.choice(("/jobs", "/jobs/", path)), params=query)
    assert response.status_code < 500, (response.request.url, response.request.content[:2000], response.text)
    assert SECRET not in response.text
    if response.status_code >= 400 and response.request.method != "HEAD":
        assert response.json()["error"]["message"], response.text


def attack(server: Running, outside: Path, seed: int, count: int) -> None:
    jobs: Jobs = server.app.state.jobs
    before = list_files(outside)
    rng = random.Random(seed)
    with watching(outside) as opened:
        for _ in range(count):
            send(server, rng, outside)
    assert not opened
    # Whatever was taken is of a listed kind, and its paths are in the workspace.
    for job in jobs.list():
        assert job.kind in KINDS
        assert SECRET not in json.dumps(job.settings)
        for name in KINDS[job.kind].paths.keys() & job.settings.keys():
            assert not is_outside(jobs, job.settings[name]), (name, job.settings)
    assert list_files(outside) == before
    assert [job.id for job in jobs.list(states=["running"])] == [1]


def is_outside(jobs: Jobs, value: Any) -> bool:
    """Whether a path of an accepted job is outside; what is no path is refused."""
    if isinstance(value, list):
        return any(is_outside(jobs, item) for item in value)
    if not isinstance(value, str) or value == "embedded":
        return False
    parts = [part.strip().partition("=")[0] for part in value.split(",")]
    return not all(
        (jobs.workspace.path / part).resolve().is_relative_to(jobs.workspace.path) for part in parts
    )


@contextmanager
def watching(outside: Path) -> Iterator[list[str]]:
    """Collect what this process, whose thread the server is, opens or lists outside of the workspace."""
    opened: list[str] = []
    is_open = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_open and event in {"open", "os.listdir", "os.scandir"} and isinstance(arguments[0], str):
            path = os.path.realpath(arguments[0])
            is_own = Path(path).is_relative_to(outside / "space")
            if (Path(path).is_relative_to(outside) and not is_own) or path.startswith("/etc/passwd"):
                opened.append(path)

    # Hooks stay; this one has nothing to do afterwards.
    sys.addaudithook(hook)
    (outside / "secret.jsonl").read_text()
    assert opened == [str(outside / "secret.jsonl")]
    opened.clear()
    try:
        yield opened
    finally:
        is_open = False


def list_files(outside: Path) -> dict[str, bytes]:
    """Everything outside of the workspace."""
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in sorted(outside.rglob("*"))
        if not path.is_relative_to(outside / "space")
    }


def test_hostile_requests_about_jobs(server: Running, outside: Path) -> None:
    attack(server, outside, 1, 150)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_hostile_requests_about_jobs(server: Running, outside: Path) -> None:
    attack(server, outside, 2, 1000)


def test_hostile_sockets(server: Running) -> None:
    url = server.url.replace("http", "ws")
    for path in ("x/ws", "-1/ws", f"{2**70}/ws", "1/ws?after=-1", "1/ws?after=x", "kinds/ws", "ws"):
        with pytest.raises((ConnectionClosed, InvalidHandshake)), connect(f"{url}/jobs/{path}") as socket:  # noqa: PT012
            assert "error" in json.loads(socket.recv())
            socket.recv()
    with connect(f"{url}/jobs/1/ws") as socket, pytest.raises(ConnectionClosed):  # noqa: PT012
        socket.send("x" * 20_000_000)
        while True:
            socket.recv()
    assert server.client.get("/jobs/1").status_code == 200


def test_a_full_queue_refuses(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efficientai_toolkit.jobs.queue.MAX_QUEUED", 0)
    response = server.post("/jobs", {"kind": "train", "settings": TINY})
    assert response.status_code == 429
    assert "jobs wait already" in response.json()["error"]["message"]
