"""``/v1/models``, ``/model/info``."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from efficientai_toolkit.registry.version import ModelVersion
from efficientai_toolkit.server.errors import JsonResponse
from efficientai_toolkit.server.generation import Service, while_connected
from efficientai_toolkit.server.served import Served

OWNER = "efficientai-toolkit"


def create_router(service: Service) -> APIRouter:
    """Create the routes."""
    router = APIRouter()

    @router.get("/v1/models")
    async def list_models() -> Response:  # pyright: ignore[reportUnusedFunction]
        """List what requests may name: models, adapters as ``MODEL:NAME``, and those of the registry."""
        data = [entry for served in service.pool.list_served() for entry in _describe(served)]
        data += [_describe_registered(*each) for each in await service.pool.list_registered()]
        return JsonResponse({"object": "list", "data": data})

    @router.get("/v1/models/{model}")
    async def retrieve_model(model: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Describe a model or adapter."""
        if (registered := service.pool.find_registry(model)) is not None:
            return JsonResponse(_describe_registered(model, await registered.describe(model)))
        served, _ = service.pool.find(model)
        return JsonResponse(next(entry for entry in _describe(served) if entry["id"] == model))

    @router.get("/model/info")
    async def describe_model(request: Request, model: str | None = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Describe a model in detail, loading it if necessary."""
        lease = await while_connected(request, service.pool.lease(model))
        try:
            version = lease.version
            is_registered = service.pool.find_registry(model) is not None
            adapters = [] if is_registered else sorted(service.pool.find(model)[0].adapters)
            return JsonResponse(
                {
                    "model": lease.name,
                    "path": str(version.path),
                    "model_type": version.model.model_type,
                    "num_parameters": version.num_parameters,
                    "dtype": version.dtype,
                    "context_length": version.context_length,
                    "vocab_size": version.tokenizer.vocab_size,
                    "has_chat_template": version.tokenizer.has_chat_template,
                    "tool_dialect": version.dialect.name,
                    "adapters": adapters,
                    "requests": {"running": version.engine.running, "waiting": version.engine.waiting},
                }
            )
        finally:
            lease.close()

    return router


def _describe(served: Served) -> list[dict[str, Any]]:
    common = {"object": "model", "created": served.created, "owned_by": OWNER}
    adapters = [
        {"id": f"{served.name}:{adapter}", **common, "parent": served.name}
        for adapter in sorted(served.adapters)
    ]
    return [{"id": served.name, **common}, *adapters]


def _describe_registered(name: str, version: ModelVersion) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(datetime.fromisoformat(version.created).timestamp()),
        "owned_by": OWNER,
        "version": version.reference,
        "kind": version.kind,
    }
