"""``/admin``: versions and adapters, changed while the server runs."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from efficientai_toolkit.server.errors import JsonResponse
from efficientai_toolkit.server.generation import Service
from efficientai_toolkit.server.protocol.native import AdapterRequest, DeployRequest, NameRequest
from efficientai_toolkit.server.version import Version, check_folder

PREFIX = "/admin"
"""Paths that need a key with the right to administer."""


def create_router(service: Service) -> APIRouter:
    """Create the routes."""
    router = APIRouter(prefix=PREFIX)
    pool = service.pool

    @router.post("/deploy")
    async def deploy(body: DeployRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Serve another version of a model."""
        return _describe(body.name, await pool.deploy(body.name, await pool.locate(body.path)))

    @router.post("/rollback")
    async def rollback(body: NameRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Serve the version before the last deployment again."""
        return _describe(body.name, await pool.rollback(body.name))

    @router.post("/adapters/load")
    async def load_adapter(body: AdapterRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Load an adapter."""
        path = check_folder(body.path)
        await pool.load_adapter(body.name, path)
        return JsonResponse({"name": body.name, "path": str(path)})

    @router.post("/adapters/unload")
    async def unload_adapter(body: NameRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Forget an adapter."""
        await pool.unload_adapter(body.name)
        return JsonResponse({"name": body.name})

    return router


def _describe(name: str, version: Version) -> Response:
    values: dict[str, Any] = {
        "name": name,
        "path": str(version.path),
        "model_type": version.model.model_type,
        "num_parameters": version.num_parameters,
    }
    return JsonResponse(values)
