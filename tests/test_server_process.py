"""The command line of the server, in a process of its own."""

import json
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from efficientai_toolkit.cli import main
from support.command import PROGRAM, TIMEOUT_SECS, run
from support.process import serving
from support.server import adapter


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_requests_end_before_the_server_does(number: signal.Signals) -> None:
    with serving("--drain-timeout", "30") as (process, url), httpx.Client(base_url=url, timeout=60) as client:
        body = {"prompt": "To be", "max_tokens": 450, "stream": True}
        with client.stream("POST", "/generate", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(number)
            time.sleep(0.2)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/health")
            assert '"finish_reason"' in "".join(lines)
        assert process.wait(TIMEOUT_SECS) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_what_lasts_too_long_is_cut_off() -> None:
    with (
        serving("--drain-timeout", "1", "--max-queue", "1000") as (process, url),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        body = {"prompt": ["To be"] * 30, "n": 16, "max_tokens": 500, "stream": True}
        with pytest.raises(httpx.HTTPError), client.stream("POST", "/v1/completions", json=body) as response:  # noqa: PT012
            lines = response.iter_lines()
            next(lines)
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            text = "".join(lines)
            assert "[DONE]" not in text
            raise httpx.RemoteProtocolError(text)
        process.wait(TIMEOUT_SECS)
        assert time.monotonic() - started < 10


def test_adapters_and_versions_from_the_command_line(tmp_path: Path) -> None:
    from efficientai_toolkit._base.assets import MODEL

    folder = adapter(tmp_path / "pirate", 1)
    with serving("--adapter-path", str(folder), namespace="lora-finetuning-mlx:serve") as (_, url):
        names = [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]]
        assert names == ["embedded", "embedded:pirate"]
        done = run([str(PROGRAM), "serve:deploy", f"embedded={MODEL}", "--url", url, "--json"])
        assert json.loads(done.stdout)["path"] == str(MODEL)
        done = run([str(PROGRAM), "serve:rollback", "embedded", "--url", url])
        assert done.stdout == f"{url} serves embedded from {MODEL}\n"
        done = run([str(PROGRAM), "serve:deploy", "embedded=/nowhere", "--url", url])
        assert done.returncode == 2
        assert "has no folder or GGUF file '/nowhere'" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model-path", "/nowhere"], "there is no folder '/nowhere'"),
        (["--api-key-file", "/nowhere"], "cannot read the API keys in /nowhere"),
        (["--host", "256.0.0.1"], "cannot listen on 256.0.0.1"),
        (["--model", "x"], "--model must be pairs of a name and a value"),
    ],
)
def test_wrong_options(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_ends_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["serve", "--port", "0", "--model-path", str(tmp_path)]) == 2
    assert "model_type" in capsys.readouterr().err


def test_a_key_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.txt"
    assert main(["serve:key", "bob", "--api-key-file", str(file)]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("eat-")
    assert len(key) > 40
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert main(["serve:key", "b ob", "--api-key-file", str(file)]) == 2
