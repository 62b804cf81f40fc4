"""The served names and the versions of models behind them."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.threads import run
from efficientai_toolkit.server.version import Version, estimate_size, read_model, start_version

log = logging.getLogger(__package__)

_RETRY_AFTER = 5
"""Seconds after which a model that does not fit now may."""


@dataclass(kw_only=True, slots=True, eq=False)
class Served:
    """A name that requests may use."""

    name: str
    path: Path
    previous: Path | None = None
    adapters: dict[str, Path] = field(default_factory=dict[str, Path])
    version: Version | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    used: float = 0.0
    created: int = field(default_factory=lambda: int(time.time()))


class Lease:
    """The use of a version by one request, until :meth:`close`."""

    def __init__(
        self, name: str, version: Version, adapter: str | None, release: Callable[[Version], None]
    ) -> None:
        self.name = name
        self.version = version
        self.adapter = adapter
        self._release: Callable[[Version], None] | None = release

    def close(self) -> None:
        """Give the version back; a second call does nothing."""
        if self._release is not None:
            if self.adapter is not None:
                self.version.leave_adapter(self.adapter)
            self._release(self.version)
            self._release = None


class Pool:
    """Loads models when they are asked for and drops the least recently used.

    Parameters
    ----------
    config
        Limits and data type.
    models
        Folders by name; the first is the default.
    adapters
        Folders by ``MODEL:NAME``.
    draft
        Folder of the model that proposes tokens for the default one.
    """

    def __init__(
        self,
        config: ServeConfig,
        models: Mapping[str, Path],
        adapters: Mapping[str, Path],
        draft: Path | None = None,
    ) -> None:
        self._config = config
        self._draft = draft
        self._served = {name: Served(name=name, path=path) for name, path in models.items()}
        for full, path in adapters.items():
            name, _, adapter = full.partition(":")
            self._served[name].adapters[adapter] = path
        self._loading = asyncio.Lock()
        self._alive: set[Version] = set()
        """Versions whose weights are in memory, those of the last requests of an old one included."""
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def default(self) -> str:
        """Name of the model of requests that name none."""
        return next(iter(self._served))

    def list_served(self) -> list[Served]:
        """Return the served names, the default first."""
        return list(self._served.values())

    def versions(self) -> list[tuple[str, Version]]:
        """Return the loaded versions for new requests, by name."""
        return [
            (served.name, served.version) for served in self._served.values() if served.version is not None
        ]

    def find(self, full: str | None) -> tuple[Served, str | None]:
        """Return what ``MODEL`` or ``MODEL:ADAPTER`` names.

        Raises
        ------
        ApiError
            404 if there is no such model or adapter.
        """
        name, _, adapter = (full or self.default).partition(":")
        served = self._served.get(name)
        if served is None or (adapter and adapter not in served.adapters):
            message = f"the model {str(full)[:100]!r} does not exist; GET /v1/models lists those that do"
            raise ApiError(message, status=404, param="model", code="model_not_found")
        return served, adapter or None

    async def lease(self, full: str | None) -> Lease:
        """Return the model that a request names, loaded if necessary."""
        served, adapter = self.find(full)
        while (version := served.version) is None:
            # A client that leaves does not stop what the next one needs.
            await asyncio.shield(asyncio.create_task(self._ensure_loaded(served)))
        version.leases += 1
        if adapter is not None:
            version.users[adapter] += 1
        served.used = time.monotonic()
        lease = Lease(full or served.name, version, adapter, self._release)
        try:
            if adapter is not None:
                await version.load_adapter(adapter, served.adapters[adapter])
        except BaseException:
            lease.close()
            raise
        return lease

    async def _ensure_loaded(self, served: Served) -> None:
        async with served.lock:
            if served.version is None:
                served.version = await self._load(served.path, spare=served)

    async def deploy(self, name: str, path: Path) -> Version:
        """Serve another version under ``name``; the requests of the one before keep it until they end.

        Raises
        ------
        ApiError
            404 for an unknown name; 400 if the version cannot be loaded, in which case nothing changes.
        """
        served, adapter = self.find(name)
        if adapter is not None:
            message = "a deployment replaces a model; /admin/adapters takes adapters"
            raise ApiError(message, param="name")
        async with served.lock:
            version = await self._load(path, spare=served)
            old, served.version = served.version, version
            served.previous, served.path = served.path, path
            if old is not None:
                self._retire(old)
        log.info("%s is served from %s", name, path)
        return version

    async def rollback(self, name: str) -> Version:
        """Serve the version before the last deployment again.

        Raises
        ------
        ApiError
            409 if there was none.
        """
        served, _ = self.find(name)
        if served.previous is None:
            message = f"there is no version of {name} before this one"
            raise ApiError(message, status=409)
        return await self.deploy(name, served.previous)

    async def load_adapter(self, full: str, path: Path) -> None:
        """Serve an adapter under ``MODEL:NAME``.

        Raises
        ------
        ApiError
            409 if the name is taken; 400 if it cannot be loaded.
        """
        name, _, adapter = full.partition(":")
        served, _ = self.find(name)
        if not adapter or ":" in adapter:
            message = "an adapter is named MODEL:NAME"
            raise ApiError(message, param="name")
        if adapter in served.adapters:
            message = f"{full} is loaded already; unload it first"
            raise ApiError(message, status=409, param="name")
        lease = await self.lease(name)
        try:
            await lease.version.load_adapter(adapter, path)
        finally:
            lease.close()
        served.adapters[adapter] = path

    async def unload_adapter(self, full: str) -> None:
        """Forget an adapter, for new requests at once; returns after the requests that use it."""
        served, adapter = self.find(full)
        if adapter is None:
            message = f"{full} is a model, not an adapter"
            raise ApiError(message, param="name")
        del served.adapters[adapter]
        if served.version is not None:
            await served.version.unload_adapter(adapter)

    async def close(self) -> None:
        """End all engines."""
        versions = [version for _, version in self.versions()]
        for served in self._served.values():
            served.version = None
        await asyncio.gather(
            *(asyncio.to_thread(version.engine.close) for version in versions), *self._ending
        )

    async def _load(self, path: Path, *, spare: Served) -> Version:
        """Load a model, after making room for it."""
        # One at a time: each needs the memory that the one before left.
        async with self._loading:
            draft = self._draft if spare.name == self.default else None
            size = estimate_size(path, self._config, draft)
            await self._make_room(size, spare)
            started = time.monotonic()
            loaded = await run(partial(read_model, path, self._config, draft))
            log.info("loaded %s in %.1f s", path, time.monotonic() - started)
            version = start_version(path, loaded, self._config, size)
            self._alive.add(version)
        return version

    async def _make_room(self, size: int, spare: Served) -> None:
        budget = self._config.memory_budget_bytes
        if budget is None:
            return
        if size > budget:
            message = f"the model needs {size:,} bytes, more than the server's memory budget of {budget:,}"
            raise ApiError(message)
        while self._used() + size > budget:
            if self._ending:
                await asyncio.wait(self._ending, return_when=asyncio.FIRST_COMPLETED)
                continue
            idle = [
                served
                for served in self._served.values()
                if served is not spare and served.version is not None and not served.version.leases
            ]
            if not idle:
                message = "the models that are in use leave no memory for this one; try again later"
                raise ApiError(message, status=503, code="no_memory", retry_after=_RETRY_AFTER)
            oldest = min(idle, key=lambda served: served.used)
            version, oldest.version = oldest.version, None
            log.info("dropping %s", oldest.name)
            if version is not None:
                self._retire(version)

    def _used(self) -> int:
        return sum(version.size for version in self._alive)

    def _retire(self, version: Version) -> None:
        version.is_retired = True
        if not version.leases:
            self._end(version)

    def _release(self, version: Version) -> None:
        version.leases -= 1
        if version.is_retired and not version.leases:
            self._end(version)

    def _end(self, version: Version) -> None:
        async def end() -> None:
            await asyncio.to_thread(version.engine.close)
            self._alive.discard(version)

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
