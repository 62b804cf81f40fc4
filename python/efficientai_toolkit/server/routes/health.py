"""``/health``, ``/ready``, ``/metrics``."""

from fastapi import APIRouter
from starlette.responses import Response

from efficientai_toolkit._base.version import __version__
from efficientai_toolkit.server.errors import JsonResponse
from efficientai_toolkit.server.generation import Service
from efficientai_toolkit.server.metrics import CONTENT_TYPE

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Paths that need no key, for orchestrators."""


def create_router(service: Service) -> APIRouter:
    """Create the routes."""
    router = APIRouter()

    @router.get("/health")
    async def check_health() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Tell that the process answers."""
        return JsonResponse({"status": "ok", "version": __version__})

    @router.get("/ready")
    async def check_ready() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Tell whether requests are answered at once: status 503 while loading or draining."""
        if service.is_draining:
            return JsonResponse({"status": "draining"}, status_code=503)
        if not service.pool.versions():
            return JsonResponse({"status": "loading"}, status_code=503)
        return JsonResponse({"status": "ok"})

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def read_metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Return the metrics for Prometheus."""
        return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    return router
