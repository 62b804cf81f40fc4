"""Registered models on the server: named, promoted while requests run, deployed, remembered."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.exceptions import DeploymentError
from efficientai_toolkit.registry import ModelVersion, Registry
from efficientai_toolkit.server import deploy, rollback
from efficientai_toolkit.server.config import ServeConfig
from support.registry import variant, weights
from support.server import Running, adapter, running

PROMPT: Any = {"prompt": "Who goes there?", "max_tokens": 6}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two versions of a model, v1 and v2, the first one in production."""
    found = Registry(tmp_path / "space")
    for number in (1, 2):
        folder = variant(found.workspace.runs / str(number), number)
        found.register("chat", folder, aliases=[f"v{number}"])
    found.promote("chat/1")
    return found


@pytest.fixture
def server(registry: Registry) -> Iterator[Running]:
    with running(ServeConfig(workspace=str(registry.workspace.path))) as found:
        yield found


def say(server: Running, model: str | None = None) -> str:
    response = server.post("/generate", PROMPT | ({} if model is None else {"model": model}))
    assert response.status_code == 200, response.text
    return str(response.json()["text"])


def refuse(server: Running, model: str, status: int = 404) -> str:
    response = server.post("/generate", {**PROMPT, "model": model})
    assert response.status_code == status, response.text
    return str(response.json()["error"]["message"])


def loaded(server: Running) -> set[str]:
    return {name for name, _ in server.app.state.service.pool.versions()}


def alive(server: Running) -> int:
    return len(server.app.state.service.pool._alive)


def wait_for(server: Running, number: int) -> None:
    end = time.monotonic() + 10
    while alive(server) != number:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_names_stand_for_versions(server: Running, registry: Registry) -> None:
    texts = {name: say(server, name) for name in ("chat", "chat@production", "chat@v1", "chat@v2")}
    assert texts["chat"] == texts["chat@production"] == texts["chat@v1"] != texts["chat@v2"]
    # What several names stand for is in memory once, beside the default model.
    assert loaded(server) == {"embedded", "chat", "chat@v2"}
    names = {each["id"]: each for each in server.client.get("/v1/models").json()["data"]}
    assert list(names) == ["embedded", "chat", "chat@production", "chat@v1", "chat@v2"]
    assert [each.get("version") for each in names.values()] == [None, "chat/1", "chat/1", "chat/1", "chat/2"]
    for name, entry in names.items():
        assert server.client.get(f"/v1/models/{name}").json() == entry
    info = server.client.get("/model/info", params={"model": "chat@v2"}).json()
    assert (info["model"], info["path"]) == ("chat@v2", str(registry.get("chat/2").path))
    assert server.metric("model_generations_total") == 4


def test_the_registry_is_read_when_it_has_changed(
    server: Running, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    get = Registry.get

    def count(self: Registry, reference: str) -> ModelVersion:
        read.append(reference)
        return get(self, reference)

    say(server, "chat")
    monkeypatch.setattr(Registry, "get", count)
    before = [say(server, "chat") for _ in range(3)]
    assert not read
    registry.promote("chat/2")
    assert say(server, "chat") != before[0]
    assert read


def test_promotion_drops_no_request(server: Running, registry: Registry) -> None:
    expected = {number: say(server, f"chat@v{number}") for number in (1, 2)}
    assert say(server, "chat") == expected[1]
    is_over = threading.Event()
    found: list[Any] = []

    def ask() -> None:
        while not is_over.is_set():
            try:
                response = server.post("/generate", {**PROMPT, "model": "chat"})
                found.append((response.status_code, response.json().get("text")))
            except Exception as error:  # noqa: BLE001
                found.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in (2, 1, 2):
        registry.promote("chat", number)
        # The next request is answered by it.
        assert say(server, "chat") == expected[number]
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(found) > 10
    assert {status for status, _ in found} == {200}
    assert {text for _, text in found} == set(expected.values())
    # What was in memory as chat@v2 is chat now.
    assert loaded(server) == {"embedded", "chat"}
    wait_for(server, 2)


def test_a_version_that_cannot_be_served_leaves_the_one_before(
    server: Running, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    before = say(server, "chat")
    broken = registry.workspace.runs / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    weights(broken / "model.safetensors")
    registry.register("chat", broken, aliases=["production", "broken"])
    assert [say(server, "chat") for _ in range(3)] == [before] * 3
    assert caplog.text.count("chat stays at chat/1: chat/3 cannot be served") == 1
    assert "chat/3 cannot be served" in refuse(server, "chat@broken", 400)
    registry.promote("chat/2")
    assert say(server, "chat") == say(server, "chat@v2") != before
    # Changed after it was registered.
    registry.register("chat", variant(registry.workspace.runs / "4", 4), aliases=["v4"])
    shutil.copy(next(registry.get("chat/1").path.glob("*.safetensors")), registry.get("chat/4").path)
    assert "not those that were registered as chat/4" in refuse(server, "chat@v4", 400)


def test_removed_versions_go(server: Running, registry: Registry) -> None:
    registry.promote("chat/2", alias="candidate")
    say(server, "chat@candidate")
    assert alive(server) == 2
    registry.remove_alias("chat", "candidate")
    assert "does not exist" in refuse(server, "chat@candidate")
    wait_for(server, 1)
    say(server, "chat@v2")
    registry.remove("chat/2", force=True)
    refuse(server, "chat@v2")
    wait_for(server, 1)
    say(server, "chat")
    registry.remove("chat/1", force=True)
    refuse(server, "chat")
    wait_for(server, 1)
    assert [each["id"] for each in server.client.get("/v1/models").json()["data"]] == ["embedded"]


def test_adapters_share_their_base(server: Running, registry: Registry, tmp_path: Path) -> None:
    plain = say(server)
    for number in (1, 2):
        folder = adapter(registry.workspace.runs / f"a{number}", number)
        registry.register("pirate", folder, base=str(MODEL), aliases=[f"v{number}"])
    texts = {number: say(server, f"pirate@v{number}") for number in (1, 2)}
    assert len({plain, *texts.values()}) == 3
    assert say(server, "pirate") == texts[2]
    registry.promote("pirate/1")
    assert say(server, "pirate") == texts[1]
    assert say(server) == plain
    # The default model is their base.
    assert loaded(server) == {"embedded"}
    [(_, version)] = server.app.state.service.pool.versions()
    assert version.adapters == {"registry:pirate/1", "registry:pirate/2"}
    # Of a registered model, which has the name of what stands for it.
    registry.register("captain", adapter(registry.workspace.runs / "c", 3), parent="chat/1")
    assert say(server, "captain") != say(server, "chat")
    assert loaded(server) == {"embedded", "chat"}


def test_adapters_that_nothing_names_leave_the_model(server: Running, registry: Registry) -> None:
    for number in range(1, 6):
        folder = adapter(registry.workspace.runs / f"a{number}", number)
        registry.register("pirate", folder, base=str(MODEL), aliases=["production"])
        say(server, "pirate")
    [(_, version)] = server.app.state.service.pool.versions()
    end = time.monotonic() + 5
    while version.adapters != {"registry:pirate/5"}:
        assert time.monotonic() < end
        time.sleep(0.01)
    broken = adapter(registry.workspace.runs / "broken", 9)
    weights(broken / "adapters.safetensors")
    before = say(server, "pirate")
    registry.register("pirate", broken, base=str(MODEL), aliases=["production"])
    assert say(server, "pirate") == say(server, "pirate") == before
    registry.register("pirate", broken, base=str(MODEL), aliases=["broken"])
    assert "adapters.safetensors" in refuse(server, "pirate@broken", 400)


def test_what_cannot_be_served(server: Running, registry: Registry) -> None:
    folder = registry.workspace.runs / "x" / "checkpoints" / "step-0000001"
    folder.mkdir(parents=True)
    weights(folder / "parameters.safetensors")
    (folder / "state.json").write_text("{}")
    registry.register("half", folder)
    assert "is a checkpoint" in refuse(server, "half", 400)
    for number, base in enumerate(("no/such-model", "/nowhere", None), 1):
        registry.register("pirate", adapter(registry.workspace.runs / f"p{number}", number), base=base)
        assert "requests do not download" in refuse(server, "pirate", 400)
    for name in (
        "none",
        "none@x",
        "chat/1",
        "chat/9",
        "org/name",
        "chat@none",
        "chat:x",
        "../x",
        "a" * 400,
        "chat/0",
        "é",
        "\0",
    ):
        assert "does not exist" in refuse(server, name)
        assert server.client.get("/v1/models/none").status_code == 404


def test_deployments_of_registered_models(registry: Registry, tmp_path: Path) -> None:
    config = ServeConfig(models={"web": str(MODEL)}, workspace=str(registry.workspace.path))
    with running(config) as server:
        before = say(server)
        done = deploy("web", "chat@production", url=server.url)
        assert (done["name"], done["path"]) == ("web", str(registry.get("chat/1").path))
        registry.register("pirate", adapter(registry.workspace.runs / "p", 1), base=str(MODEL))
        for name, path, message in (
            ("web", "pirate", "is no model but adapter"),
            ("web", "none@production", "has no folder or GGUF file 'none@production'"),
            ("web", "/nowhere", "has no folder"),
            ("chat", str(MODEL), "chat is served from the registry: registry:promote"),
            ("none", str(MODEL), "does not exist"),
        ):
            with pytest.raises(DeploymentError, match=message):
                deploy(name, path, url=server.url)
        after = say(server)
        assert after == say(server, "chat") != before
    # A server that starts again serves it, and can go back.
    with running(config) as server:
        assert say(server) == after
        assert rollback("web", url=server.url)["path"] == str(MODEL)
        deploy("web", "chat/2", url=server.url)
    # Unless its command line names another folder.
    other = shutil.copytree(MODEL, tmp_path / "other")
    with running(ServeConfig(models={"web": str(other)}, workspace=config.workspace)) as server:
        assert say(server) == before
    with running(config) as server:
        assert say(server) == say(server, "chat@v2")
    # Or the folder is gone.
    registry.remove("chat/2", force=True, delete_files=True)
    with running(config) as server:
        assert say(server) == before
        with pytest.raises(DeploymentError, match="no version of web before"):
            rollback("web", url=server.url)


def test_names_of_the_command_line_win(registry: Registry) -> None:
    with running(ServeConfig(models={"chat": str(MODEL)}, workspace=str(registry.workspace.path))) as server:
        names = [each["id"] for each in server.client.get("/v1/models").json()["data"]]
        assert names == ["chat"]
        assert server.client.get("/model/info", params={"model": "chat"}).json()["path"] == str(MODEL)


def test_the_least_recently_used_version_makes_room(registry: Registry) -> None:
    config = ServeConfig(workspace=str(registry.workspace.path), memory_budget="30MB")
    with running(config) as server:
        say(server, "chat@v2")
        say(server, "chat")
        assert loaded(server) == {"chat@v2", "chat"}
        say(server)
        assert loaded(server) == {"embedded", "chat"}


def test_a_version_that_does_not_fit_waits(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    # The old version and the new one are in memory at the same time for a swap.
    config = ServeConfig(workspace=str(registry.workspace.path), memory_budget="20MB")
    with running(config) as server:
        before = say(server, "chat")
        registry.promote("chat/2")
        assert say(server, "chat") == say(server, "chat") == before
        assert caplog.text.count("chat stays at chat/1: chat/2 cannot be served") == 1
