"""The application: routes, guard and errors put together."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.version import __version__
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.jobs.queue import Jobs
from efficientai_toolkit.jobs.runner import Runner
from efficientai_toolkit.registry.registry import Registry
from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.deployments import Deployments
from efficientai_toolkit.server.errors import add_handlers
from efficientai_toolkit.server.generation import Service
from efficientai_toolkit.server.guard import Guard
from efficientai_toolkit.server.keys import read_keys
from efficientai_toolkit.server.metrics import Metrics
from efficientai_toolkit.server.pool import Pool
from efficientai_toolkit.server.routes import (
    admin,
    chat,
    completions,
    embeddings,
    health,
    messages,
    models,
    native,
    responses,
    tokens,
)
from efficientai_toolkit.server.routes import jobs as routes_of_jobs
from efficientai_toolkit.workspace.folder import Workspace

log = logging.getLogger(__package__)

EMBEDDED = "embedded"
"""Name of the bundled model."""

_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

_STATUSES = {
    400: "The request is wrong.",
    401: "The API key is missing or wrong.",
    403: "The host, the origin or the key is not allowed.",
    404: "There is no such model.",
    408: "The body did not arrive.",
    409: "The state of the server does not allow it.",
    413: "The body is too large.",
    429: "Too many requests wait.",
    501: "The engine cannot do it.",
    503: "The server is loading or shutting down.",
}


def create_app(config: ServeConfig, *, on_failure: Callable[[Exception], None] | None = None) -> FastAPI:
    """Create the application.

    Parameters
    ----------
    config
        What is served, and its limits.
    on_failure
        Told if the default model cannot be loaded, which happens in the background.

    Returns
    -------
    FastAPI
        For any ASGI server; ``app.state.service`` has the pool and the metrics, ``app.state.jobs`` the jobs
        of the workspace, or ``None``.

    Raises
    ------
    ConfigError
        If a name is wrong or the key file cannot be read.
    ModelLoadingError
        If there is no such folder and it cannot be downloaded.
    """
    keys = None if config.api_key_file is None else read_keys(Path(config.api_key_file).expanduser())
    metrics = Metrics()
    pool = create_pool(config)
    metrics.watch(pool)
    service = Service(config, pool, metrics)

    jobs = None if config.workspace is None else create_jobs(config, config.workspace, pool)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        loading = asyncio.create_task(_load_default(pool, on_failure))
        runner = None if jobs is None else Runner(jobs, max_running=config.max_jobs)
        if runner is not None:
            runner.start()
        yield
        service.is_draining = True
        loading.cancel()
        if runner is not None:
            await asyncio.to_thread(runner.stop)
        await pool.close()

    guards = [Middleware(Guard, service=service, keys=keys)]
    if config.cors_origins:
        guards.insert(
            0,
            Middleware(
                CORSMiddleware,
                allow_origins=config.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
            ),
        )
    # The pages of documentation load scripts from elsewhere.
    app = FastAPI(
        title="efficientai-toolkit", version=__version__, lifespan=lifespan, middleware=guards,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.service = service
    app.state.jobs = jobs
    add_handlers(app)
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for status, text in _STATUSES.items()
    }
    for module in (chat, completions, embeddings, responses, messages, models, native, tokens, admin, health):
        app.include_router(module.create_router(service), responses=described)
    app.include_router(routes_of_jobs.create_router(service, jobs), responses=described)
    _describe_errors(app)
    return app


def create_pool(config: ServeConfig) -> Pool:
    """Create the pool with the folder of each name; models of the hub are downloaded here, never later."""
    if config.models:
        named = {name: hub.resolve(path) for name, path in config.models.items()}
    else:
        path = MODEL if config.model_path is None else hub.resolve(config.model_path)
        given = EMBEDDED if config.model_path is None else _last_part(config.model_path)
        named = {config.served_model_name or given: path}
    default = next(iter(named))
    adapters: dict[str, Path] = {}
    for name, folder in config.adapters.items():
        model, colon, adapter = name.partition(":")
        full = name if colon else f"{default}:{name}"
        if (colon and model not in named) or ":" in adapter or full.endswith(":"):
            message = (
                f"`adapters` has {name!r}; expected NAME, or MODEL:NAME with a model of {', '.join(named)}"
            )
            raise ConfigError(message)
        adapters[full] = hub.resolve(folder).resolve()
    draft = None if config.draft_model is None else hub.resolve(config.draft_model).resolve()
    folders = {name: path.resolve() for name, path in named.items()}
    if config.workspace is None:
        return Pool(config, folders, adapters, draft=draft)
    workspace = Workspace(config.workspace)
    configured = {name: config.models.get(name, config.model_path or "") for name in named}
    return Pool(
        config,
        folders,
        adapters,
        draft=draft,
        registry=Registry(workspace),
        deployments=Deployments(workspace, configured),
    )


def create_jobs(config: ServeConfig, workspace: str, pool: Pool) -> Jobs:
    """Open the jobs of a workspace, whose settings may have the names of served and registered models."""
    served = {one.name: one for one in pool.list_served()}
    space = Workspace(workspace)
    registry = Registry(space)

    def find_model(full: str) -> Path | None:
        name, colon, adapter = full.partition(":")
        if name not in served:
            return _find_registered(registry, full)
        return served[name].adapters.get(adapter) if colon else served[name].path

    return Jobs(space, find_model=find_model, allow_downloads=config.allow_downloads)


def _find_registered(registry: Registry, reference: str) -> Path | None:
    try:
        return registry.get(reference).path
    except ConfigError:
        # Whatever else the text is.
        return None


def _last_part(path: str) -> str:
    """Return the name of a folder, file or hub id, without what separates adapters and revisions."""
    name = (
        Path(path).expanduser().resolve().name
        if Path(path).expanduser().exists()
        else path.rpartition("/")[2]
    )
    return name.partition("@")[0].replace(":", "-") or "model"


async def _load_default(pool: Pool, on_failure: Callable[[Exception], None] | None) -> None:
    try:
        (await pool.lease(None)).close()
    except Exception as error:
        log.exception("the default model cannot be loaded")
        if on_failure is not None:
            on_failure(error)


def _describe_errors(app: FastAPI) -> None:
    """Leave status 422 out of the schema: what it stands for in FastAPI is a 400 here."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = describe()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
