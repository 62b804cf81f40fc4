"""Flower's processes on this machine: a SuperLink, a SuperNode for each client, and a run on them."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from efficientai_toolkit._base.files import write_text
from efficientai_toolkit.exceptions import ConfigError, DependencyError, TrainingError
from efficientai_toolkit.federated import flower
from efficientai_toolkit.federated.keys import Keys

LOOPBACK = "127.0.0.1"
_PATIENCE = 60.0
"""Seconds that a process may take to open its port."""
_GRACE = 10.0
"""Seconds between asking a process to end and killing it."""
_PAUSE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """Where a SuperLink is, and how its clients trust it."""

    host: str = LOOPBACK
    port: int
    keys: Keys | None = None
    """Keys; without them nothing is encrypted, which is for the loopback interface only."""
    authenticates: bool = False
    """Whether clients have to prove that they have a registered key."""

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether nothing outside this machine reaches it."""
        return self.host in {LOOPBACK, "localhost", "::1"}

    def check(self) -> None:
        """Check that traffic which leaves the machine is encrypted and that clients are known.

        Raises
        ------
        ConfigError
            If it is not.
        """
        if not self.is_local and self.keys is None:
            message = (
                f"{self.host} is not the loopback interface: give --keys, a folder of "
                "`federated-learning:keys`, so that the traffic is encrypted"
            )
            raise ConfigError(message)

    def server_command(self, *, database: Path | None = None) -> list[str]:
        """Return the command line of the SuperLink."""
        self.check()
        command = [
            find_program("flower-superlink"), "--disable-runtime-dependency-installation",
            "--host", self.host, "--port", str(self.port),
        ]  # fmt: skip
        if self.keys is None:
            command.append("--insecure")
        else:
            command += [
                "--ssl-certfile", str(self.keys.certificate), "--ssl-keyfile", str(self.keys.key),
                "--ssl-ca-certfile", str(self.keys.authority),
            ]  # fmt: skip
        if self.authenticates:
            command.append("--enable-supernode-auth")
        if database is not None:
            command += ["--database", str(database)]
        return command

    def client_command(
        self,
        settings: Mapping[str, Any],
        *,
        port: int,
        authority: Path | None = None,
        key: Path | None = None,
    ) -> list[str]:
        """Return the command line of a SuperNode whose own port on the loopback interface is ``port``."""
        found = authority or (self.keys.authority if self.keys else None)
        if found is None and not self.is_local:
            message = f"{self.host} is not the loopback interface: give --authority, the ca.crt of its keys"
            raise ConfigError(message)
        command = [
            find_program("flower-supernode"), "--superlink", self.address, "--port", str(port),
            "--node-config", " ".join(f"{name}={_quote(value)}" for name, value in settings.items()),
        ]  # fmt: skip
        command += ["--insecure"] if found is None else ["--root-certificates", str(found)]
        if key is not None:
            command += ["--auth-supernode-private-key", str(key)]
        return command


def _quote(value: object) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'


def find_program(name: str) -> str:
    """Return the path of a program of Flower, which lies beside Python.

    Raises
    ------
    DependencyError
        If Flower is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        message = f"{name} is not installed; install Flower with `uv sync --extra federated`"
        raise DependencyError(message)
    return found


def write_connection(home: Path, link: Link) -> dict[str, str]:
    """Write the connection ``local`` of ``flwr run`` and return the environment of Flower's processes."""
    trust = "insecure = true" if link.keys is None else f'root-certificates = "{link.keys.authority}"'
    text = f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "{link.address}"\n{trust}\n'
    write_text(home / "config.toml", text)
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**flower.quiet_environment(), "FLWR_HOME": str(home), "PATH": paths}


class Federation:
    """A SuperLink and SuperNodes, each a process that ends with this one's ``with`` block.

    Parameters
    ----------
    link
        Where the SuperLink listens.
    clients
        Configuration of each client's node.
    home
        Folder for logs and Flower's own files.
    """

    def __init__(self, link: Link, clients: Sequence[Mapping[str, Any]], home: Path) -> None:
        self._link = link
        self._clients = clients
        self._home = home
        self._environment = write_connection(home, link)
        self.server: subprocess.Popen[bytes] | None = None
        self.nodes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Start all processes and wait for their ports."""
        ports = [self._link.port, *(self._link.port + 1 + number for number in range(len(self._clients)))]
        for port in ports:
            _check_free(port)
        try:
            self.server = self._start("superlink", self._link.server_command())
            self._wait("superlink", self.server, self._link.port)
            for number, settings in enumerate(self._clients):
                port = self._link.port + 1 + number
                command = self._link.client_command(settings, port=port)
                self.nodes.append(self._start(f"supernode-{number:03}", command))
            for number, node in enumerate(self.nodes):
                self._wait(f"supernode-{number:03}", node, self._link.port + 1 + number)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        self.close()

    def close(self) -> None:
        """End all processes and those that they started."""
        running = [process for process in (*self.nodes, self.server) if process is not None]
        for process in running:
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + _GRACE
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0.1))
            _signal(process, signal.SIGKILL)
            process.wait()

    def _start(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _wait(self, name: str, process: "subprocess.Popen[bytes]", port: int) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if process.poll() is not None:
                break
            with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
                return
            time.sleep(_PAUSE)
        message = f"{name} did not start: {_last_lines(self._home / f'{name}.log')}"
        raise TrainingError(message)

    def run(self, app: Path, watch: Callable[[], object]) -> None:
        """Run an app to its end, calling ``watch`` meanwhile.

        Raises
        ------
        TrainingError
            If the run fails; the message holds the last lines of its log.
        """
        command = [find_program("flwr"), "run", str(app), "local", "--stream"]
        with _interruptible(self._start("run", command)) as process:
            while process.poll() is None:
                watch()
                self._check()
                time.sleep(_PAUSE)
            watch()
        log = self._home / "run.log"
        if process.returncode != 0:
            message = f"the run on Flower's processes failed: {_last_lines(log)}"
            raise TrainingError(message)

    def _check(self) -> None:
        if self.server is not None and self.server.poll() is not None:
            message = f"the SuperLink ended: {_last_lines(self._home / 'superlink.log')}"
            raise TrainingError(message)


@contextmanager
def _interruptible(process: "subprocess.Popen[bytes]") -> "Generator[subprocess.Popen[bytes]]":
    try:
        yield process
    finally:
        _signal(process, signal.SIGTERM)
        process.wait()


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    # Each is the leader of a group, with the processes that it started.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def find_free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            message = f"port {port} is taken ({error.strerror}); choose another --port"
            raise ConfigError(message) from error


def _read_end(path: Path) -> str:
    with suppress(OSError):
        return path.read_bytes()[-20_000:].decode(errors="replace")
    return ""


def _last_lines(path: Path) -> str:
    lines = [line.strip() for line in _read_end(path).splitlines() if line.strip()]
    return f"{' | '.join(lines[-4:])} (all of it: {shlex.quote(str(path))})"


def run_program(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program in the foreground and return its exit code; Ctrl-C ends it first."""
    with subprocess.Popen(command, env=dict(environment)) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has told it, too.
            process.wait()
            return 0
