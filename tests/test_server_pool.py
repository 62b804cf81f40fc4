"""Several models and adapters, and their versions, while requests run."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.exceptions import ConfigError, DeploymentError
from efficientai_toolkit.server import deploy, rollback, version
from efficientai_toolkit.server.app import create_pool
from efficientai_toolkit.server.config import ServeConfig
from support.server import Running, ScriptedBackend, adapter, chat_model, running, whole_adapter

PROMPT: Any = {"prompt": "Who goes there?", "max_tokens": 6}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another version: a template of its own tells it from the first."""
    return chat_model(tmp_path_factory.mktemp("models") / "other", "{{ messages[0].content }}<|channel|>")


@pytest.fixture
def server(model_path: Path) -> Iterator[Running]:
    with running(ServeConfig(models={"chat": str(model_path)})) as found:
        yield found


def loaded(server: Running) -> list[str]:
    return [name for name, _ in server.app.state.service.pool.versions()]


def test_a_version_is_deployed_and_rolled_back(server: Running, model_path: Path, other_path: Path) -> None:
    def dialect() -> str:
        return str(server.client.get("/model/info").json()["tool_dialect"])

    assert dialect() == "hermes"
    with pytest.raises(DeploymentError, match="no version of chat before"):
        rollback("chat", url=server.url)
    done = deploy("chat", other_path, url=server.url)
    assert (done["name"], done["path"]) == ("chat", str(other_path))
    assert dialect() == "harmony"
    assert rollback("chat", url=server.url)["path"] == str(model_path)
    assert dialect() == "hermes"
    # A second rollback returns to where the first came from.
    assert rollback("chat", url=server.url)["path"] == str(other_path)


def test_a_version_that_does_not_load_changes_nothing(server: Running, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for path, message in (("/nowhere", "has no folder"), (tmp_path, "model_type")):
        with pytest.raises(DeploymentError, match=message):
            deploy("chat", path, url=server.url)
    with pytest.raises(DeploymentError, match="does not exist"):
        deploy("none", tmp_path, url=server.url)
    with pytest.raises(DeploymentError, match="cannot reach the server"):
        deploy("chat", tmp_path, url="http://127.0.0.1:1")
    assert server.post("/generate", PROMPT).status_code == 200


def test_swaps_drop_no_request(server: Running, model_path: Path, other_path: Path) -> None:
    expected = server.post("/generate", PROMPT).json()["text"]
    is_over = threading.Event()
    found: list[Any] = []

    def ask() -> None:
        while not is_over.is_set():
            try:
                response = server.post("/generate", PROMPT)
                found.append((response.status_code, response.json().get("text")))
            except Exception as error:  # noqa: BLE001
                found.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    deploy("chat", other_path, url=server.url)
    rollback("chat", url=server.url)
    time.sleep(0.2)
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(found) > 10
    assert set(found) == {(200, expected)}
    assert len(server.app.state.service.pool._alive) == 1


def test_versions_that_went_leave_their_memory(server: Running, model_path: Path, other_path: Path) -> None:
    before = server.metric("mlx_active_memory_bytes")
    for _ in range(3):
        deploy("chat", other_path, url=server.url)
        rollback("chat", url=server.url)
    # The embedded model takes 14 MB; the last one before may still be on its way out.
    end = time.monotonic() + 10
    while server.metric("mlx_active_memory_bytes") - before > 5e6:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_request_ends_with_the_version_it_began_with(
    model_path: Path, other_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "create_backend", lambda *_, **__: ScriptedBackend(["x" * 90], pause=0.02))
    with running(ServeConfig(models={"chat": str(model_path)})) as server:
        body = {"prompt": "a", "max_tokens": 100, "stream": True}
        with server.client.stream("POST", "/generate", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            deploy("chat", other_path, url=server.url)
            assert len(server.app.state.service.pool._alive) == 2
            text = "".join(lines)
        assert text.count("xxx") == 29
        assert '"finish_reason":"stop"' in text
        end = time.monotonic() + 5
        while len(server.app.state.service.pool._alive) > 1:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_adapters_come_and_go(server: Running, tmp_path: Path) -> None:
    plain = server.post("/generate", PROMPT).json()["text"]
    first, second = adapter(tmp_path / "a", 1), adapter(tmp_path / "b", 2)
    assert server.post("/admin/adapters/load", {"name": "chat:a", "path": str(first)}).status_code == 200
    assert server.post("/admin/adapters/load", {"name": "chat:b", "path": str(second)}).status_code == 200
    texts = [
        server.post("/generate", {**PROMPT, "model": name}).json()["text"]
        for name in ("chat:a", "chat:b", "chat")
    ]
    assert len({plain, *texts[:2]}) == 3
    assert texts[2] == plain
    results: dict[str, str] = {}

    def ask(name: str) -> None:
        results[name] = server.post("/generate", {**PROMPT, "model": name}).json()["text"]

    batch = [threading.Thread(target=ask, args=(name,)) for name in ("chat:a", "chat", "chat:b")]
    for thread in batch:
        thread.start()
    for thread in batch:
        thread.join()
    assert results == {"chat:a": texts[0], "chat:b": texts[1], "chat": plain}

    again = server.post("/admin/adapters/load", {"name": "chat:a", "path": str(first)})
    assert again.status_code == 409
    assert server.post("/admin/adapters/unload", {"name": "chat:a"}).status_code == 200
    assert server.post("/generate", {**PROMPT, "model": "chat:a"}).status_code == 404
    assert server.post("/admin/adapters/unload", {"name": "chat"}).status_code == 400
    for name, path in (
        ("chat", first),
        ("chat:x:y", first),
        ("chat:c", tmp_path / "none"),
        ("chat:c", tmp_path),
    ):
        assert server.post("/admin/adapters/load", {"name": name, "path": str(path)}).status_code == 400
    assert server.post("/generate", {**PROMPT, "model": "chat:c"}).status_code == 404


def stream(server: Running, name: str, tokens: int) -> Any:
    body = {**PROMPT, "model": name, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    return server.client.stream("POST", "/generate", json=body)


def test_requests_with_different_adapters_run_together(server: Running, tmp_path: Path) -> None:
    alone: dict[str, str] = {}
    names = ("chat", "chat:a", "chat:b")
    for seed, name in enumerate(names):
        if seed:
            body = {"name": name, "path": str(adapter(tmp_path / str(seed), seed))}
            assert server.post("/admin/adapters/load", body).status_code == 200
        with stream(server, name, 400) as response:
            alone[name] = "".join(response.iter_lines())
    with contextlib.ExitStack() as stack:
        lines = {name: stack.enter_context(stream(server, name, 400)).iter_lines() for name in names}
        parts = {name: [next(lines[name])] for name in names}
        # All have begun, and none has ended.
        assert server.metric("model_requests_running") == 3
        assert server.post("/generate", {**PROMPT, "model": "chat:c"}).status_code == 404
        assert server.post("/v1/embeddings", {"input": "a", "model": "chat:a"}).status_code == 200
        assert {name: "".join([*parts[name], *lines[name]]) for name in names} == alone
    assert len(set(alone.values())) == 3


def test_an_adapter_is_unloaded_after_its_requests(server: Running, tmp_path: Path) -> None:
    load = {"name": "chat:a", "path": str(adapter(tmp_path / "a", 1))}
    assert server.post("/admin/adapters/load", load).status_code == 200
    with stream(server, "chat:a", 400) as response, ThreadPoolExecutor() as pool:
        lines = response.iter_lines()
        next(lines)
        unloading = pool.submit(server.post, "/admin/adapters/unload", {"name": "chat:a"})
        end = time.monotonic() + 10
        while server.post("/generate", {**PROMPT, "model": "chat:a"}).status_code != 404:
            assert time.monotonic() < end
        # Others go on meanwhile.
        assert server.post("/generate", PROMPT).status_code == 200
        assert not unloading.done()
        assert '"finish_reason":"length"' in "".join(lines)
        assert unloading.result(timeout=10).status_code == 200
    other = {"name": "chat:a", "path": str(adapter(tmp_path / "b", 2))}
    assert server.post("/admin/adapters/load", other).status_code == 200
    assert server.post("/generate", {**PROMPT, "model": "chat:a"}).status_code == 200


def test_adapters_with_whole_modules_run_alone(server: Running, tmp_path: Path) -> None:
    folders = {"chat:a": adapter(tmp_path / "a", 1), "chat:whole": whole_adapter(tmp_path / "whole")}
    for name, folder in folders.items():
        loaded = server.post("/admin/adapters/load", {"name": name, "path": str(folder)})
        assert loaded.status_code == 200, loaded.text
    names = ("chat", "chat:whole", "chat:a", "chat:whole", "chat")
    bodies = [{**PROMPT, "model": name, "max_tokens": 40} for name in names]
    alone = [server.post("/generate", body).json()["text"] for body in bodies]
    assert len(set(alone)) == 3
    with ThreadPoolExecutor(len(bodies)) as pool:
        found = list(pool.map(lambda body: server.post("/generate", body).json()["text"], bodies))
    assert found == alone


def test_the_least_recently_used_model_makes_room(model_path: Path) -> None:
    # The embedded model takes 14 MB in float32.
    models = {name: str(model_path) for name in ("a", "b", "c")}
    with running(ServeConfig(models=models, memory_budget="30MB")) as server:
        assert loaded(server) == ["a"]
        expected = server.post("/generate", PROMPT).json()["text"]
        for name, left in (("b", ["a", "b"]), ("a", ["a", "b"]), ("c", ["a", "c"]), ("b", ["b", "c"])):
            assert server.post("/generate", {**PROMPT, "model": name}).json()["text"] == expected
            assert loaded(server) == left
        assert server.metric("model_weights_bytes") <= 30e6


def test_models_in_use_are_not_dropped(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "create_backend", lambda *_, **__: ScriptedBackend(["x" * 900], pause=0.01))
    config = ServeConfig(models={"a": str(model_path), "b": str(model_path)}, memory_budget="20MB")
    with running(config) as server:
        with server.client.stream("POST", "/generate", json={"prompt": "a", "stream": True}):
            response = server.post("/generate", {**PROMPT, "model": "b"})
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "no_memory"
            assert "retry-after" in response.headers
        end = time.monotonic() + 5
        while server.post("/generate", {**PROMPT, "model": "b"}).status_code != 200:
            assert time.monotonic() < end
        assert loaded(server) == ["b"]


def test_a_model_larger_than_the_budget_is_refused(model_path: Path) -> None:
    with running(ServeConfig(models={"a": str(model_path)}, memory_budget="5MB"), waits=False) as server:
        response = server.post("/generate", PROMPT)
        assert response.status_code == 400
        assert "memory budget of 5,000,000" in response.json()["error"]["message"]
        assert server.client.get("/ready").json() == {"status": "loading"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": {"a:b": "x"}}, "cannot be named 'a:b'"),
        ({"models": {"a": "x"}, "model_path": "y"}, "exclude each other"),
        ({"models": {"a": "x"}, "served_model_name": "y"}, "is the name of `model_path`"),
        ({"port": 70000}, "from 0 to 65535"),
        ({"max_batch": 0}, "`max_batch` is 0; it must be at least 1"),
        ({"request_timeout": 0}, "`request_timeout` is 0; it must be at least 0.001"),
        ({"memory_budget": "much"}, "a size such as 4GB"),
        ({"max_prompt_tokens": 0}, "at least 1"),
    ],
)
def test_settings_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**values)


def test_names_are_derived_from_paths(model_path: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", 1)
    found = create_pool(ServeConfig(model_path=str(model_path), adapters={"x": str(folder)}))
    assert [(served.name, list(served.adapters)) for served in found.list_served()] == [("chat", ["x"])]
    assert create_pool(ServeConfig()).default == "embedded"
    assert create_pool(ServeConfig(model_path=str(model_path), served_model_name="gpt")).default == "gpt"
    models = {"a": str(model_path), "b": str(model_path)}
    found = create_pool(ServeConfig(models=models, adapters={"b:x": str(folder), "y": str(folder)}))
    assert [list(served.adapters) for served in found.list_served()] == [["y"], ["x"]]
    for name in ("c:x", "a:", ":x", "a:b:c"):
        with pytest.raises(ConfigError, match="expected NAME, or MODEL:NAME"):
            create_pool(ServeConfig(models=models, adapters={name: str(folder)}))


def test_swaps_leave_no_threads(server: Running, model_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    for _ in range(2):
        deploy("chat", model_path, url=server.url)
        server.post("/generate", PROMPT)
    before = count()
    for _ in range(12):
        deploy("chat", model_path, url=server.url)
        server.post("/generate", PROMPT)
    # Those that wait for engines to end are at most six.
    assert count() <= before + 7
