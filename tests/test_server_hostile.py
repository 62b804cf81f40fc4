"""Requests that nobody should send: each is told what is wrong with it."""

import gc
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.server.config import ServeConfig
from support.hostile_json import hostile_value
from support.server import Running, chat_model, running

CHAT: Any = {"messages": [{"role": "user", "content": "Who goes there?"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Running]:
    config = ServeConfig(models={"chat": str(model_path)}, max_body="64KB", max_output_tokens=16)
    with running(config) as found:
        yield found


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
        expected = response.status_code < 500
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
