"""Flower's processes: keys, command lines, the app of `flwr run`, and whole runs on this machine."""

from __future__ import annotations

import datetime as dt
import os
import signal
import socket
import stat
import subprocess
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated import FederatedConfig
from support.command import PROGRAM
from support.command import run as run_command

pytest.importorskip("flwr")

from efficientai_toolkit.federated.apps import from_run_config, to_run_config
from efficientai_toolkit.federated.keys import Keys, check_certificate, make_keys
from efficientai_toolkit.federated.processes import Link
from efficientai_toolkit.federated.session import run
from efficientai_toolkit.federated.template import write_app
from test_federated import weights


def test_keys_are_what_flower_takes(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

    keys = make_keys(tmp_path / "keys", ["127.0.0.1", "server.example"], 2, days=7)
    authority, server = (
        x509.load_pem_x509_certificate(path.read_bytes()) for path in (keys.authority, keys.certificate)
    )
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["127.0.0.1", "server.example"]
    assert server.not_valid_after_utc < dt.datetime.now(dt.UTC) + dt.timedelta(days=8)
    for path in keys.clients:
        pair = load_ssh_private_key(path.read_bytes(), None)
        assert isinstance(pair, EllipticCurvePrivateKey)
        public = load_ssh_public_key(path.with_suffix(".pub").read_bytes())
        assert public == pair.public_key()
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (keys.key, *keys.clients))
    assert not (tmp_path / "keys" / "ca.key").exists()
    with pytest.raises(ConfigError, match="already holds keys"):
        make_keys(tmp_path / "keys", ["127.0.0.1"], 0)
    with pytest.raises(ConfigError, match="is no name or address"):
        make_keys(tmp_path / "other", ["a b"], 0)
    assert not (tmp_path / "other").exists()


def test_expired_and_damaged_certificates(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys", ["127.0.0.1"], 0, days=0)
    time.sleep(1)
    with pytest.raises(ConfigError, match=r"is valid from .*; make a new one"):
        check_certificate(keys.certificate)
    keys.authority.write_text("nothing")
    with pytest.raises(ConfigError, match="is no certificate"):
        Keys.in_folder(tmp_path / "keys")
    keys.authority.unlink()
    with pytest.raises(ConfigError, match=r"ca.crt is missing"):
        Keys.in_folder(tmp_path / "keys")


def test_nothing_leaves_the_machine_unencrypted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0.0.0.0 is not the loopback interface: give --keys"):
        Link(host="0.0.0.0", port=9080).server_command()
    with pytest.raises(ConfigError, match="give --authority"):
        Link(host="server.example", port=9080).client_command({"partition-id": 0}, port=9094)
    keys = make_keys(tmp_path / "keys", ["server.example"], 1)
    command = Link(host="0.0.0.0", port=9080, keys=keys, authenticates=True).server_command()
    assert "--insecure" not in command
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(command)
    local = Link(port=9080).client_command({"partition-id": 0, "data": "/a b"}, port=9094)
    assert 'partition-id=0 data="/a b"' in local


def test_the_app_carries_the_settings(tmp_path: Path) -> None:
    config = FederatedConfig(clients=3, lr=0.01, rule_options={"tau": 1}, training={"optimizer": "sgd"})
    write_app(tmp_path / "app", to_run_config(config))
    project = tomllib.loads((tmp_path / "app/pyproject.toml").read_text())
    assert from_run_config(project["tool"]["flwr"]["app"]["config"]) == config
    with pytest.raises(ConfigError, match="the configuration of the run: unknown key `clientz`"):
        from_run_config({"clientz": 3})
    built = subprocess.run(
        [PROGRAM.with_name("flwr"), "build", "--app", str(tmp_path / "app")],
        cwd=tmp_path, env={**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    assert list(tmp_path.glob("*.fab"))


def test_commands_refuse_what_cannot_work(tmp_path: Path) -> None:
    def fail(*words: str) -> str:
        done = run_command([str(PROGRAM), *words])
        assert done.returncode == 2, done.stderr
        return done.stderr

    assert "give --keys" in fail("federated-learning:server", "--host", "0.0.0.0")
    server = ["federated-learning:client", "--server"]
    assert "--server must be HOST:PORT" in fail(*server, "nowhere", "--data", str(tmp_path))
    assert "there is no folder or file" in fail(*server, "127.0.0.1:9080", "--data", str(tmp_path / "none"))
    assert "give --authority" in fail(*server, "server.example:9080", "--data", str(tmp_path))
    (tmp_path / "app").mkdir()
    (tmp_path / "app/file").write_text("")
    assert "is not empty" in fail("federated-learning:init", "--app", str(tmp_path / "app"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1]) % 30000 + 20000


def settings(output: Path, **further: Any) -> dict[str, Any]:
    return {"clients": 2, "rounds": 2, "local_steps": 2, "compare": False, "output": str(output), **further}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_processes_with_tls_end_where_this_process_does(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", ["127.0.0.1", "localhost"], 0)
    events: list[Any] = []
    result = run(
        callback=events.append,
        **settings(tmp_path / "a", processes=True, port=free_port(), keys=str(tmp_path / "keys")),
    )
    expected = run(**settings(tmp_path / "b"))
    found, wanted = weights(result.output), weights(expected.output)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert [event.round for event in events if type(event).__name__ == "Round"] == [1, 2]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_server_that_was_killed_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "a"
    chosen = settings(output, processes=True, port=free_port(), rounds=3)

    def kill_server() -> None:
        while not (output / "checkpoint").exists():
            time.sleep(0.2)
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            words = line.read_bytes().split(b"\0") if line.exists() else []
            if any(b"flwr-serverapp" in word for word in words):
                environment = (line.parent / "environ").read_bytes()
                if str(output).encode() in environment:
                    os.kill(int(line.parent.name), signal.SIGKILL)

    killer = threading.Thread(target=kill_server)
    killer.start()
    with pytest.raises(Exception, match="failed"):
        run(**chosen)
    killer.join()
    result = run(**chosen, resume=True)
    expected = run(**settings(tmp_path / "b", rounds=3))
    found, wanted = weights(result.output), weights(expected.output)
    assert len(result.rounds) == 3
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
