"""Keys, hosts, origins, sizes, queues; clients that leave and requests that nobody should send."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.server import version
from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.guard import Guard
from efficientai_toolkit.server.keys import create_key, find_key, read_keys
from support.server import Running, ScriptedBackend, chat_model, running

CHAT: Any = {"messages": [{"role": "user", "content": "Who goes there?"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Running]:
    config = ServeConfig(models={"chat": str(model_path)}, max_body="64KB", max_output_tokens=16)
    with running(config) as found:
        yield found


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedBackend:
    backend = ScriptedBackend(["x" * 3000], pause=0.005)
    monkeypatch.setattr(version, "create_backend", lambda *_, **__: backend)
    return backend


def wait_for(condition: Any, secs: float = 10.0) -> None:
    end = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_keys_are_asked_for_and_kept_as_hashes(model_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    user, admin = create_key(file, "bob", is_admin=False), create_key(file, "ann", is_admin=True)
    assert user not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    keys = read_keys(file)
    assert [(key.name, key.is_admin) for key in keys] == [("bob", False), ("ann", True)]
    assert find_key(keys, user) == keys[0]
    assert find_key(keys, user[:-1]) is None
    with pytest.raises(ConfigError, match="has a key named bob already"):
        create_key(file, "bob", is_admin=True)
    with running(ServeConfig(models={"chat": str(model_path)}, api_key_file=str(file))) as server:
        get = server.client.get
        assert get("/health").status_code == get("/ready").status_code == 200
        wrong: list[dict[str, Any]] = [
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {user}"},
            {"x-api-key": "é".encode()},
        ]
        for headers in wrong:
            response = get("/v1/models", headers=headers)
            assert response.status_code == 401, headers
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        assert get("/metrics").status_code == get("/openapi.json").status_code == 401
        assert get("/v1/models", headers={"Authorization": f"bearer {user}"}).status_code == 200
        assert get("/v1/models", headers={"x-api-key": user}).status_code == 200
        body = {"name": "chat"}
        refused = server.post("/admin/rollback", body, headers={"x-api-key": user})
        assert refused.status_code == 403
        assert "bob may not administer" in refused.json()["error"]["message"]
        assert server.post("/admin/rollback", body, headers={"x-api-key": admin}).status_code == 409


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no API key"),
        ("sk-123\n", "line 1 is not NAME sha256:HEX"),
        ("# keys\nbob sha256:12\n", "line 2 is not NAME sha256:HEX"),
    ],
)
def test_key_files_are_checked(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_keys(file)
    with pytest.raises(ConfigError, match="cannot read"):
        read_keys(tmp_path / "none")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:3000"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(server: Running, headers: dict[str, str], status: int) -> None:
    response = server.client.get("/v1/models", headers=headers)
    assert response.status_code == status
    assert "access-control-allow-origin" not in response.headers


def test_origins_may_be_allowed(model_path: Path) -> None:
    origin = "https://app.example"
    config = ServeConfig(
        models={"chat": str(model_path)}, cors_origins=[origin], allowed_hosts=["api.example"]
    )
    with running(config, waits=False) as server:
        response = server.client.get("/v1/models", headers={"Origin": origin, "Host": "api.example"})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == origin
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert server.client.options("/v1/models", headers=asked).status_code == 200
        assert server.client.get("/v1/models", headers={"Origin": "https://other.example"}).status_code == 403


def test_large_bodies_are_refused_before_they_are_read(server: Running) -> None:
    large = {**CHAT, "user": "x" * 100_000}
    response = server.post("/v1/chat/completions", large)
    assert response.status_code == 413
    assert "larger than the 64,000 bytes" in response.json()["error"]["message"]
    parts = iter([b'{"user": "'] + [b"x" * 30_000] * 4)
    with pytest.raises(httpx.HTTPError):  # noqa: PT012 (either the answer or a closed connection)
        response = server.client.post(
            "/v1/chat/completions", content=parts, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 413
        raise httpx.HTTPError(response.text)


def test_bodies_that_do_not_arrive_are_given_up(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efficientai_toolkit.server.guard._BODY_SECS", 0.1)
    assert Guard.__module__ == "efficientai_toolkit.server.guard"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b"408" in connection.recv(1000)


def test_a_full_queue_is_told(model_path: Path, scripted: ScriptedBackend) -> None:
    config = ServeConfig(models={"chat": str(model_path)}, max_batch=1, max_queue=2)
    with running(config) as server:
        with server.client.stream(
            "POST", "/generate", json={"prompt": "a", "max_tokens": 500, "stream": True}
        ):
            response = server.post("/generate/batch", {"prompts": ["a", "b", "c"]})
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["type"] == "rate_limit_error"
            assert server.metric("model_requests_running") == 1
        wait_for(lambda: server.metric("model_requests_running") == 0)
        # One that is idle takes a batch and a queue.
        assert (
            server.post("/generate/batch", {"prompts": ["a", "b", "c"], "max_tokens": 2}).status_code == 200
        )


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_stop_what_they_asked_for(
    model_path: Path, scripted: ScriptedBackend, stream: bool
) -> None:
    with running(ServeConfig(models={"chat": str(model_path)})) as server:
        body = {"prompt": "a", "max_tokens": 500, "stream": stream}
        with (  # noqa: PT012
            pytest.raises(httpx.ReadTimeout),
            httpx.Client(base_url=server.url) as client,
            client.stream("POST", "/generate", json=body, timeout=0.3) as response,
        ):
            if stream:
                raise httpx.ReadTimeout(response.url.path)
            response.read()
        wait_for(lambda: scripted.cancelled == [0])
        assert server.metric("model_requests_running") == 0
        [(_, used)] = server.app.state.service.pool.versions()
        assert used.leases == 0


def test_answers_are_cut_off_after_the_time(model_path: Path, scripted: ScriptedBackend) -> None:
    with running(ServeConfig(models={"chat": str(model_path)}, request_timeout=0.3)) as server:
        done = server.post("/generate", {"prompt": "a", "max_tokens": 500}).json()
        assert done["finish_reason"] == "length"
        assert 1 < done["generated_tokens"] < 450
        wait_for(lambda: scripted.cancelled == [0])


def test_who_has_no_turn_in_time_is_told(model_path: Path, scripted: ScriptedBackend) -> None:
    config = ServeConfig(models={"chat": str(model_path)}, request_timeout=0.3, max_batch=1)
    with running(config) as server:
        response = server.post("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 500})
        assert response.status_code == 429
        assert "waited too long" in response.json()["error"]["message"]


def test_clients_that_read_nothing_keep_no_model(model_path: Path, scripted: ScriptedBackend) -> None:
    scripted.pause, scripted.size = 0.0, 1
    scripted.texts = ["x" * 400]
    with running(ServeConfig(models={"chat": str(model_path)})) as server:
        body = b'{"prompt": "a", "max_tokens": 500, "stream": true}'
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            [(_, used)] = server.app.state.service.pool.versions()
            wait_for(lambda: len(scripted.requests) == 1 and not used.leases)


def test_clients_that_are_slow_hold_nobody_up(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(b"POST /generate HTTP/1.1\r\nHost: local")
        assert server.post("/v1/chat/completions", CHAT).status_code == 200
    finally:
        for connection in slow:
            connection.close()
