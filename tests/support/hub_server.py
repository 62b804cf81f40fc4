"""A small Hugging Face hub on this machine: just enough for ``snapshot_download``."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server holds and what it was asked."""

    repositories: dict[str, dict[str, bytes]]
    """Files by repository, on revision ``main``."""
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Status and ``X-Error-Code`` with which a repository is refused."""
    drops: int = 0
    """How many downloads of ``*.safetensors`` break off half-way."""
    answers: dict[str, Any] = field(default_factory=dict)
    """What is sent instead of a repository's description (``revision``) or list of files (``tree``)."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and ``Range`` header of every request."""
    url: str = ""

    def ranges(self) -> list[str]:
        """The ``Range`` headers that came."""
        return [header for _, _, header in self.requests if header]

    def downloads(self) -> list[str]:
        """Names of the files that were asked for."""
        return [
            path.rpartition("/")[2]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers["Range"]))
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        rest = parts[4:] if is_api else parts[2:]
        if name in self.hub.refuse:
            self._refuse(*self.hub.refuse[name])
        elif name not in self.hub.repositories:
            self._refuse(404, "RepoNotFound")
        elif rest[1] not in {"main", COMMIT}:
            self._refuse(404, "RevisionNotFound")
        elif is_api:
            self._describe(name, rest[0])
        else:
            self._send_file(self.hub.repositories[name], "/".join(rest[2:]))

    def _describe(self, name: str, what: str) -> None:
        files = self.hub.repositories[name]
        if what in self.hub.answers:
            self._send_json(self.hub.answers[what])
        elif what == "tree":
            self._send_json(
                [
                    {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
                    for path, content in files.items()
                ]
            )
        else:
            self._send_json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})

    def _send_file(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            self._refuse(404, "EntryNotFound")
            return
        content = files[path]
        first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        body = content[first:]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if path.endswith(".safetensors") and self.hub.drops > 0:
            self.hub.drops -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)

    def _send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Answer requests on a free port until the block ends."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
