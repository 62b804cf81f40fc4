"""Every lookup runs in a process of its own: huggingface_hub reads its environment on import."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from efficientai_toolkit import hub
from efficientai_toolkit.exceptions import ModelLoadingError
from support.hub_server import COMMIT, Hub, serve

WEIGHTS = bytes(range(256)) * 120_000
"""30 MB: the client writes in chunks of 10 MB, and the connection must break after the first."""

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"# not needed",
    "pytorch_model.bin": b"pickled",
    "consolidated.safetensors": b"a second copy",
    "onnx/model.safetensors": b"another kind",
}

SCRIPT = """
import sys
from efficientai_toolkit import hub
from efficientai_toolkit.exceptions import ModelLoadingError
try:
    print(hub.resolve(sys.argv[1]))
except ModelLoadingError as error:
    sys.exit(f"ModelLoadingError: {error}")
"""


@pytest.fixture
def server() -> Iterator[Hub]:
    with serve(Hub({"org/model": dict(FILES)})) as running:
        yield running


def lookup(
    home: Path, endpoint: str, name: str, *, offline: bool = False, code: str = SCRIPT
) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "NO_PROXY": "*",
    }
    return subprocess.run(
        [sys.executable, "-c", code, name],
        env=environment, cwd=home, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def found(outcome: "subprocess.CompletedProcess[str]") -> Path:
    assert outcome.returncode == 0, outcome.stderr
    return Path(outcome.stdout.strip())


def refusal(outcome: "subprocess.CompletedProcess[str]") -> str:
    assert outcome.returncode == 1, outcome.stdout
    last = outcome.stderr.strip().splitlines()[-1]
    assert last.startswith("ModelLoadingError: ")
    return last


def test_a_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("org/model") == Path("org/model")


@pytest.mark.parametrize(
    "name", ["nowhere", "./org/model", "/no/such", "a/b/c", "../org/model", "org/..", "org/model@", ""]
)
def test_what_cannot_be_a_hub_id_is_a_missing_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ModelLoadingError, match=r"there is no folder|no valid hub id"):
        hub.resolve(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelLoadingError, match="is a file; expected the folder"):
        hub.resolve(path)


def test_a_download_then_offline_from_the_cache(tmp_path: Path, server: Hub) -> None:
    folder = found(lookup(tmp_path, server.url, "org/model"))
    assert folder == tmp_path / "hub" / "models--org--model" / "snapshots" / COMMIT
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS

    asked = len(server.requests)
    assert found(lookup(tmp_path, server.url, "org/model", offline=True)) == folder
    assert len(server.requests) == asked


def test_what_is_fetched_depends_on_the_kind_of_model(tmp_path: Path, server: Hub) -> None:
    server.repositories["org/model"]["unet/model.safetensors"] = b"weights"
    pipeline = 'hub.Kind(allowed=("*/*.safetensors",), ignored=("onnx/*",))'
    code = SCRIPT.replace("sys.argv[1]", f"sys.argv[1], kind={pipeline}")
    folder = found(lookup(tmp_path, server.url, "org/model", code=code))
    assert [str(path.relative_to(folder)) for path in folder.rglob("*.*")] == ["unet/model.safetensors"]


def test_a_download_is_not_repeated(tmp_path: Path, server: Hub) -> None:
    found(lookup(tmp_path, server.url, "org/model"))
    server.requests.clear()
    found(lookup(tmp_path, server.url, "org/model"))
    assert server.downloads() == []


def test_a_revision_can_be_named(tmp_path: Path, server: Hub) -> None:
    found(lookup(tmp_path, server.url, f"org/model@{COMMIT}"))
    message = refusal(lookup(tmp_path, server.url, "org/model@v9"))
    assert f"org/model@v9 on {server.url} has no such revision (404)" in message


@pytest.mark.slow
def test_a_broken_connection_is_resumed_where_it_broke(tmp_path: Path, server: Hub) -> None:
    server.drops = 1
    folder = found(lookup(tmp_path, server.url, "org/model"))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    (header,) = server.ranges()
    first = int(header.removeprefix("bytes=").split("-")[0])
    assert 0 < first <= len(WEIGHTS) // 2


@pytest.mark.slow
def test_an_interrupted_download_goes_on_with_the_next_run(tmp_path: Path, server: Hub) -> None:
    # Files one after the other, and no second try inside the run: it ends in the middle.
    impatient = """
import functools, sys, huggingface_hub
from huggingface_hub import file_download
download = file_download.http_get
file_download.http_get = functools.partial(download, _nb_retries=0)
huggingface_hub.snapshot_download = functools.partial(huggingface_hub.snapshot_download, max_workers=1)
"""
    server.drops = 10
    message = refusal(lookup(tmp_path, server.url, "org/model", code=impatient + SCRIPT))
    assert f"the download of org/model from {server.url} failed" in message
    assert "run again to fetch the rest" in message
    cached = "HF_HUB_OFFLINE forbids a download"
    assert cached in refusal(lookup(tmp_path, server.url, "org/model", offline=True))

    server.drops = 0
    server.requests.clear()
    folder = found(lookup(tmp_path, server.url, "org/model"))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert "config.json" not in server.downloads()
    assert "model.safetensors" in server.downloads()


def test_an_unknown_repository(tmp_path: Path, server: Hub) -> None:
    message = refusal(lookup(tmp_path, server.url, "org/nothing"))
    assert f"org/nothing is neither a folder here nor a repository on {server.url} (404)" in message


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "RepoNotFound", "does not exist on {url}, or is private (401)"),
        (401, "GatedRepo", "is gated: ask for access"),
        (403, "GatedRepo", "is gated: ask for access"),
        (403, "", "{url} refuses org/model (403)"),
    ],
)
def test_a_refused_repository(tmp_path: Path, server: Hub, status: int, code: str, expected: str) -> None:
    server.refuse["org/model"] = (status, code)
    message = refusal(lookup(tmp_path, server.url, "org/model"))
    assert expected.format(url=server.url) in message
    assert "HF_TOKEN" in message


def test_a_hub_out_of_order(tmp_path: Path, server: Hub) -> None:
    server.refuse["org/model"] = (500, "")
    message = refusal(lookup(tmp_path, server.url, "org/model"))
    assert f"{server.url} is unavailable (500) and org/model is not cached" in message


def test_offline_and_not_cached(tmp_path: Path, server: Hub) -> None:
    message = refusal(lookup(tmp_path, server.url, "org/model", offline=True))
    assert "org/model is neither a folder here nor complete in the Hugging Face cache" in message
    assert "HF_HUB_OFFLINE" in message
    assert server.requests == []


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    message = refusal(lookup(tmp_path, url, "org/model"))
    assert f"cannot reach {url} for org/model" in message
    assert "refused" in message


def test_pickled_weights_alone_are_no_model(tmp_path: Path, server: Hub) -> None:
    server.repositories["org/old"] = {"config.json": b"{}", "pytorch_model.bin": b"pickled"}
    message = refusal(lookup(tmp_path, server.url, "org/old"))
    assert "org/old has no .safetensors file on the hub" in message
    assert server.downloads() == ["config.json"]


@pytest.mark.parametrize(
    "name", ["../../../../x.safetensors", "/x.safetensors", "a/../../x.safetensors", "..\\x.jinja"]
)
def test_a_file_name_cannot_leave_the_cache(tmp_path: Path, server: Hub, name: str) -> None:
    home = tmp_path / "a" / "b" / "home"
    home.mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if home not in path.parents}
    server.repositories["org/evil"] = {name: b"evil", "config.json": b"{}", "model.safetensors": b"weights"}
    outcome = lookup(home, server.url, "org/evil")
    assert outcome.returncode == 0 or "ModelLoadingError" in outcome.stderr
    assert {path for path in tmp_path.rglob("*") if home not in path.parents} == before
    snapshots = home / "hub" / "models--org--evil" / "snapshots"
    strays = [path for path in home.rglob("*x.*") if snapshots not in path.parents]
    assert strays == []
    assert not Path("/x.safetensors").exists()


def test_telemetry_is_off(tmp_path: Path, server: Hub) -> None:
    code = "import huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    outcome = lookup(tmp_path, server.url, "org/model", code=SCRIPT + code)
    assert json.loads(outcome.stdout.splitlines()[-1].lower()) is True


@pytest.mark.parametrize("what", ["revision", "tree"])
@pytest.mark.parametrize("answer", [None, [], {}, 7, "x", [None], [7], [[]], {"siblings": 7}, {"sha": 7},
    {"id": 7, "sha": COMMIT, "siblings": [{"rfilename": 7}]}, [{"type": "file"}],
    [{"type": "file", "path": 7, "size": "x", "oid": None}]], ids=json.dumps)  # fmt: skip
def test_odd_answers_are_no_models(answer: object, what: str, tmp_path: Path, server: Hub) -> None:
    server.answers[what] = answer
    outcome = lookup(tmp_path, server.url, "org/model")
    if outcome.returncode:
        assert "org/model" in refusal(outcome)
    else:
        # The other answer was enough.
        assert (found(outcome) / "model.safetensors").read_bytes() == WEIGHTS


def test_bytes_are_reported_during_a_download(tmp_path: Path, server: Hub) -> None:
    code = """
import json, sys
from efficientai_toolkit import hub
told = []
hub.resolve(sys.argv[1], on_progress=lambda done, total: told.append((done, total)))
print(json.dumps(told))
"""
    outcome = lookup(tmp_path, server.url, "org/model", code=code)
    assert outcome.returncode == 0, outcome.stderr
    told = json.loads(outcome.stdout)
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] >= len(WEIGHTS)
    assert outcome.stderr == ""
