"""Serving until SIGTERM or Ctrl-C."""

import logging
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from efficientai_toolkit._base.extras import require
from efficientai_toolkit.exceptions import DeploymentError, ToolkitError
from efficientai_toolkit.server.config import ServeConfig

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI

_BACKLOG = 2048


def require_server() -> None:
    """Check that what the server needs is installed.

    Raises
    ------
    DependencyError
        If not.
    """
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, extra="serve", purpose="the server")


def serve(
    config: ServeConfig | None = None,
    *,
    on_start: Callable[[str], object] | None = None,
    prepare: Callable[["FastAPI"], object] | None = None,
    **overrides: Any,
) -> None:
    """Serve until SIGTERM or Ctrl-C, and let running requests end.

    Parameters
    ----------
    config
        What is served; the embedded model by default.
    on_start
        Called with the address once connections are accepted.
    prepare
        Adds to the application before it starts.
    **overrides
        Fields of :class:`ServeConfig` that override ``config``.

    Raises
    ------
    DependencyError
        If the extra ``serve`` is not installed.
    ConfigError, ModelLoadingError
        If a setting is wrong, or the default model cannot be loaded.
    DeploymentError
        If the port is taken.
    """
    require_server()
    import uvicorn

    from efficientai_toolkit.server.app import create_app

    settings = (config or ServeConfig()).with_values(overrides)
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, on_failure=fail)
    if prepare is not None:
        prepare(app)
    listener = _listen(settings)

    class Server(uvicorn.Server):
        """Tells routes that the server drains, before connections are closed."""

        def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
            app.state.service.is_draining = True
            super().handle_exit(sig, frame)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if on_start is not None and self.started:
                on_start(_describe_address(listener))

    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws_max_size=settings.max_body_bytes,
            timeout_graceful_shutdown=max(1, round(settings.drain_timeout)),
            backlog=_BACKLOG,
        )
    )
    if threading.current_thread() is threading.main_thread():
        # Uvicorn raises the signal again after it has shut down, which would end the process with an error.
        signal.signal(signal.SIGTERM, _ignore)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # It warns of every client that leaves while text is sent to it.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        # The same: the requests have ended.
        pass
    finally:
        listener.close()
    if failures:
        [error, *_] = failures
        raise error if isinstance(error, ToolkitError) else DeploymentError(str(error)) from error


def _ignore(number: int, frame: "FrameType | None") -> None:
    """Do nothing, unlike ``SIG_IGN``, which child processes inherit."""


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        message = (
            f"cannot listen on {config.host}:{config.port}: {error.strerror or error}; choose another --port"
        )
        raise DeploymentError(message) from error


def _describe_address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
