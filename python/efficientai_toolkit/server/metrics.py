"""Prometheus metrics."""

import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from efficientai_toolkit.server.backend import Event
    from efficientai_toolkit.server.pool import Pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Metrics:
    """Metrics of one server. Labels are served names and existing routes, so that they stay few."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "http_requests", "Requests", ("method", "route", "status"), registry=self.registry
        )
        self._request_seconds = Histogram(
            "http_request_duration_seconds", "Time to the end of a response", ("route",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "model_inference_duration_seconds", "Time to the end of a generation, with waiting", ("model",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._first_token_seconds = Histogram(
            "model_time_to_first_token_seconds", "Time to the first token, with waiting", ("model",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._prompt_tokens = Counter(
            "model_prompt_tokens", "Tokens of prompts", ("model",), registry=self.registry
        )
        self._cached_tokens = Counter(
            "model_cached_prompt_tokens",
            "Tokens of prompts that were in the cache",
            ("model",),
            registry=self.registry,
        )
        self._generated_tokens = Counter(
            "model_generated_tokens", "Generated tokens", ("model",), registry=self.registry
        )
        self._finished = Counter(
            "model_generations", "Finished generations", ("model", "finish_reason"), registry=self.registry
        )

    def watch(self, pool: "Pool") -> None:
        """Report the queues and the memory of a pool."""
        self.registry.register(_PoolCollector(pool))

    def first_token(self, model: str, seconds: float) -> None:
        """Count the first token of a generation."""
        self._first_token_seconds.labels(model).observe(seconds)

    def finished(self, model: str, event: "Event", seconds: float) -> None:
        """Count a finished generation."""
        self._seconds.labels(model).observe(seconds)
        self._prompt_tokens.labels(model).inc(event.prompt_tokens)
        self._cached_tokens.labels(model).inc(event.cached_tokens)
        self._generated_tokens.labels(model).inc(event.generated_tokens)
        self._finished.labels(model, event.finish_reason).inc()

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self.registry)

    async def measure(self, scope: Scope, send: Send, call: Callable[[Send], Awaitable[None]]) -> None:
        """Await ``call`` with a ``send`` that notes the status of the response."""
        started = time.monotonic()
        status = 0

        async def watch(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await call(watch)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in {"GET", "POST"} else "other"
            self._requests.labels(method, route, str(status or 499)).inc()
            self._request_seconds.labels(route).observe(time.monotonic() - started)


class _PoolCollector(Collector):
    """Reads the pool when Prometheus asks."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the gauges."""
        import mlx.core as mx

        running = GaugeMetricFamily("model_requests_running", "Requests that are computed", labels=["model"])
        waiting = GaugeMetricFamily("model_requests_waiting", "Requests that wait", labels=["model"])
        size = GaugeMetricFamily("model_weights_bytes", "Estimated size of the weights", labels=["model"])
        cache = GaugeMetricFamily(
            "model_prompt_cache_bytes", "Size of the states of earlier prompts", labels=["model"]
        )
        for name, version in self._pool.versions():
            cache.add_metric([name], version.engine.cached_bytes)
            running.add_metric([name], version.engine.running)
            waiting.add_metric([name], version.engine.waiting)
            size.add_metric([name], version.size)
        memory = GaugeMetricFamily("mlx_active_memory_bytes", "Memory that MLX has in use")
        memory.add_metric([], vars(mx)["get_active_memory"]())
        yield from (running, waiting, size, cache, memory)
