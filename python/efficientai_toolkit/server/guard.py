"""What every request has to pass before a route sees it: host, origin, key, size."""

import asyncio
import base64
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.generation import Service
from efficientai_toolkit.server.keys import Key, find_key
from efficientai_toolkit.server.routes.admin import PREFIX as ADMIN
from efficientai_toolkit.server.routes.health import OPEN_PATHS
from efficientai_toolkit.server.routes.jobs import PREFIX as JOBS

_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})

_REFUSED = 1008
"""Code of a WebSocket that is closed before it is open."""

PAGE = "/ui"
"""Path of the page, if there is one; whoever may administer may use it."""

_UPLOADS = f"{PAGE}/gradio_api/upload"

_BODY_SECS = 60.0
"""Time that a body may take to arrive."""


class Guard:
    """ASGI middleware.

    Host and origin are checked because a page in a browser can send requests to this machine: under a name
    that its owner lets point here, or from its own origin.
    """

    def __init__(self, app: ASGIApp, *, service: Service, keys: Sequence[Key] | None) -> None:
        self._app = app
        self._service = service
        self._keys = None if keys is None else list(keys)
        self._hosts = _allowed_hosts(service.config)
        self._origins = frozenset(service.config.cors_origins)
        self._max_body = service.config.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, or pass the request on."""
        if scope["type"] == "websocket":
            await self._answer_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._service.metrics.measure(
            scope, send, lambda watched: self._answer(scope, receive, watched)
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            if scope["path"] == _UPLOADS:
                # What the page uploads is written to a file, piece by piece, within a limit of its own.
                await self._app(scope, receive, send)
                return
            body = await self._read(scope, receive)
        except ApiError as error:
            await error.respond(scope["path"])(scope, receive, send)
            return
        except _ClientGoneError:
            return
        await self._app(scope, _replay(body, receive), send)

    async def _answer_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except ApiError as error:
            if "websocket.http.response" in scope.get("extensions", {}):
                await error.respond(scope["path"])(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": _REFUSED, "reason": ""})
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = _name_of(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            message = f"this server does not answer for the host {host[:100]!r}; --allowed-hosts adds names"
            raise ApiError(message, status=403)
        origin = headers.get("origin")
        is_own = origin is not None and urlsplit(origin).netloc == headers.get("host")
        if origin is not None and not is_own and origin not in self._origins:
            message = f"pages of {origin[:100]!r} may not call this server; --cors-origins adds origins"
            raise ApiError(message, status=403)
        if scope["path"] in OPEN_PATHS:
            return
        self._check_key(scope, headers)
        if self._service.is_draining:
            message = "the server is shutting down"
            raise ApiError(message, status=503, retry_after=1)

    def _check_key(self, scope: Scope, given: Headers) -> None:
        is_admin_path = scope["path"].startswith((ADMIN, JOBS)) or _is_page(scope)
        if self._keys is None:
            if is_admin_path and not _is_local(scope):
                message = "without API keys, only this machine may administer the server"
                raise ApiError(message, status=403)
            return
        scheme, _, bearer = given.get("authorization", "").partition(" ")
        presented = bearer.strip() if scheme.lower() == "bearer" else given.get("x-api-key", "")
        if _is_page(scope) and scheme.lower() == "basic":
            presented = _read_password(bearer)
        key = find_key(self._keys, presented) if presented else None
        if key is None:
            message = (
                "the API key is missing or wrong: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
            )
            # A browser asks for a password, which is the key.
            headers = {"WWW-Authenticate": f'Basic realm="{PAGE}"' if _is_page(scope) else "Bearer"}
            raise ApiError(message, status=401, code="invalid_api_key", headers=headers)
        if is_admin_path and not key.is_admin:
            message = (
                f"the API key {key.name} may not administer the server; serve:key --admin makes one that may"
            )
            raise ApiError(message, status=403)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_body:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGoneError
                    part: bytes = message.get("body", b"")
                    size += len(part)
                    if size > self._max_body:
                        raise self._too_large()
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            message_ = f"the body did not arrive within {_BODY_SECS:g} s"
            raise ApiError(message_, status=408) from None

    def _too_large(self) -> ApiError:
        message = f"the body is larger than the {self._max_body:,} bytes that this server takes (--max-body)"
        return ApiError(message, status=413)


class _ClientGoneError(Exception):
    """The client left before its request was complete."""


def _is_page(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == PAGE or path.startswith(f"{PAGE}/")


def _read_password(credentials: str) -> str:
    """Return the password of HTTP's basic authentication; any name goes with it."""
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode()
    except ValueError:
        return ""
    return text.partition(":")[2]


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that begins with a body that was read."""
    is_sent = False

    async def replay() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _allowed_hosts(config: ServeConfig) -> frozenset[str] | None:
    """Return the names that are answered; ``None`` for all."""
    if config.is_local or config.allowed_hosts:
        return _LOCAL | {_name_of(name) for name in [*config.allowed_hosts, config.host]}
    return None


def _name_of(host: str) -> str:
    """Return a host without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    if host.count(":") > 1:
        return f"[{host}]"
    return host.partition(":")[0].rstrip(".")


def _is_local(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
