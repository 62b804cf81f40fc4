"""Keys, hosts, origins, sizes, queues; clients that leave and requests that nobody should send."""

import gc
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.server import pool
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
    monkeypatch.setattr(pool, "create_backend", lambda *_, **__: backend)
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
        [(_, version)] = server.app.state.service.pool.versions()
        assert version.leases == 0


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


def hostile_value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON."""
    kinds: list[Any] = [
        None,
        True,
        -1,
        0,
        2**70,
        -(2**70),
        1e308,
        0.5,
        "",
        "x",
        "\ud800",
        "\0",
        "é" * 50,
        [],
        {},
        "NaN",
        "1",
    ]
    if depth < 3 and rng.random() < 0.3:
        if rng.random() < 0.5:
            return [hostile_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return {rng.choice(("role", "content", "type", "a")): hostile_value(rng, depth + 1) for _ in range(3)}
    return rng.choice(kinds)


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        **CHAT,
        "model": "chat",
        "temperature": 1.0,
        "n": 1,
        "stop": ["x"],
        "stream": False,
        "seed": 1,
        "top_p": 0.5,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto",
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"5": 1.0},
        "stream_options": {"include_usage": True},
        "response_format": {"type": "text"},
        "chat_template_kwargs": {"a": 1},
        "reasoning_effort": "low",
    },
    "/v1/completions": {
        "prompt": "a",
        "max_tokens": 2,
        "echo": True,
        "logprobs": 1,
        "n": 1,
        "model": "chat",
        "stream": False,
        "suffix": None,
        "best_of": 1,
    },
    "/v1/embeddings": {"input": ["a"], "encoding_format": "float", "dimensions": 4},
    "/v1/responses": {
        "input": [{"type": "message", "role": "user", "content": "a"}],
        "max_output_tokens": 2,
        "stream": False,
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low"},
        "instructions": "b",
    },
    "/v1/messages": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "max_tokens": 2,
        "stream": False,
        "system": "b",
        "tools": [{"name": "f", "input_schema": {}}],
        "tool_choice": {"type": "auto"},
        "stop_sequences": ["x"],
        "thinking": {"type": "disabled"},
    },
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "a"}]},
    "/generate": {"prompt": "a", "max_tokens": 2, "stream": False, "min_p": 0.1, "top_k": 3},
    "/generate/batch": {"prompts": ["a", [1]], "max_tokens": 2},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1, 2]},
    "/admin/deploy": {"name": "chat", "path": "/nowhere"},
    "/admin/rollback": {"name": "chat"},
    "/admin/adapters/load": {"name": "chat:a", "path": "/nowhere"},
    "/admin/adapters/unload": {"name": "chat:a"},
}


def attack(server: Running, seed: int, count: int) -> None:
    """Send wrong requests, and check that each is told so, or answered."""
    rng = random.Random(seed)
    for _ in range(count):
        path = rng.choice(list(BODIES))
        body = dict(BODIES[path])
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            body[rng.choice(list(body))] = hostile_value(rng)
        if rng.random() < 0.1:
            body.pop(rng.choice(list(body)))
        content = json.dumps(body).encode()
        if rng.random() < 0.15:
            at = rng.randrange(len(content))
            content = content[:at] + rng.choice((b"", b"\xff", b"[" * 5000, b"NaN", b'"')) + content[at + 1 :]
        kind = rng.choice(("application/json",) * 8 + ("text/plain", "application/x-www-form-urlencoded"))
        response = server.client.post(path, content=content, headers={"Content-Type": kind})
        expected = response.status_code < 500 or (path == "/v1/embeddings" and response.status_code == 501)
        assert expected, (path, content[:2000], response.text)
        if response.status_code >= 400:
            assert response.json()["error"]["message"], response.text
        elif "text/event-stream" not in response.headers["content-type"]:
            response.json()


def test_hostile_requests_are_told_what_is_wrong(server: Running) -> None:
    attack(server, 1, 150)
    assert server.post("/v1/chat/completions", CHAT).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_more_hostile_requests(server: Running, seed: int) -> None:
    attack(server, seed, 250)
    assert server.post("/v1/chat/completions", CHAT).status_code == 200
    assert server.metric("model_requests_running") == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_schema_tells_what_is_answered(server: Running) -> None:
    """Schemathesis, but whether a valid request is accepted: names and lengths are beyond a schema."""
    command = [
        "schemathesis",
        "run",
        f"{server.url}/openapi.json",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "30",
        "--exclude-path",
        "/v1/embeddings",
        "--exclude-checks",
        "positive_data_acceptance",
    ]
    command[0] = str(Path(sys.executable).with_name(command[0]))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_does_not_grow(server: Running) -> None:
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    attack(server, 20, 300)
    before = resident()
    attack(server, 21, 1000)
    assert resident() - before < 30e6


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": 5e-324},
        {"repetition_penalty": 5e-324},
        {"top_p": 5e-324},
        {"min_p": 1.0},
        {"top_k": -1},
        {"temperature": 5e-324, "presence_penalty": 2.0, "min_p": 1.0},
        {"seed": 2**64 - 1},
        {"seed": -1},
    ],
)
def test_extreme_values(server: Running, body: dict[str, Any]) -> None:
    for path in ("/generate", "/v1/completions"):
        response = server.post(path, {"prompt": "a", "max_tokens": 2, **body})
        assert response.status_code == (400 if "repetition_penalty" in body else 200)


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 60_000, b'{"messages":' * 4000, b"\xff\xfe", b"null", b"[]", b'"x"', b"{", b"1" * 5000],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/tokenize"])
def test_bodies_that_are_no_requests(server: Running, path: str, content: bytes) -> None:
    response = server.client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/generate", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/models/%00%ff", 404),
        ("GET", "/model/info?model=x", 404),
    ],
)
def test_paths_that_do_not_exist(server: Running, method: str, path: str, status: int) -> None:
    response = server.client.request(method, path)
    assert response.status_code == status
    assert ("allow" in response.headers) == (status == 405)
    assert response.json()["error"]["message"]
