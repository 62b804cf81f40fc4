"""The OpenAI-compatible server: HTTP in front of the engine, for many clients.

::

    app ─ guard (host, origin, size, key) ─ routes/* ─ generation ─ pool ─ engine thread ─ Rust
                                             │                       │
                                     protocol/*, dialects/*     versions of each name

- ``protocol/`` has the bodies of requests as pydantic models, ``routes/`` one file per API. A route turns its
  request into one or several of ``engine``, before the response begins, so that whatever is wrong has a
  status; then it streams or collects.
- ``engine`` has one thread per loaded model. It is the only place that talks to the engine while it
  generates: requests wait in a bounded queue, events come back to the event loop, a client that leaves is a
  cancelled request.
- ``pool`` knows the served names. Each has at most one version for new requests; a request holds a lease on
  the version it began with, so that a swap loads the new one beside the old one, which goes when its last
  lease ends.
- ``dialects/`` splits what a model writes into answer, reasoning and tool calls, piece by piece, one file per
  family of formats.
- Deploying is a request to the running server, ``/admin/…``, rather than a file it watches: whoever deploys
  learns at once whether the version loads, and the API keys guard it.
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.server.app import create_app
    from efficientai_toolkit.server.config import ServeConfig
    from efficientai_toolkit.server.control import deploy, rollback
    from efficientai_toolkit.server.run import serve

__all__ = ["ServeConfig", "create_app", "deploy", "rollback", "serve"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "ServeConfig": "server.config:ServeConfig",
            "create_app": "server.app:create_app",
            "deploy": "server.control:deploy",
            "rollback": "server.control:rollback",
            "serve": "server.run:serve",
        },
    )
