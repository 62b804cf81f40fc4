"""The served names and the versions of models behind them."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from efficientai_toolkit.exceptions import ModelLoadingError
from efficientai_toolkit.registry.names import UnknownVersionError
from efficientai_toolkit.registry.registry import Registry
from efficientai_toolkit.registry.version import ModelVersion
from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.deployments import Deployments
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.registered import Registered
from efficientai_toolkit.server.served import Lease, Served
from efficientai_toolkit.server.threads import run
from efficientai_toolkit.server.version import (
    Loaded,
    Version,
    check_folder,
    estimate_size,
    read_model,
    start_version,
)

log = logging.getLogger(__package__)

_RETRY_AFTER = 5
"""Seconds after which a model that does not fit now may."""


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
    registry
        Registry whose models are served, too, under names that ``models`` does not have.
    deployments
        Record of what was deployed.
    """

    def __init__(
        self,
        config: ServeConfig,
        models: Mapping[str, Path],
        adapters: Mapping[str, Path],
        *,
        draft: Path | None = None,
        registry: Registry | None = None,
        deployments: Deployments | None = None,
    ) -> None:
        self._config = config
        self._draft = draft
        self._deployments = deployments
        self._registered = (
            None
            if registry is None
            else Registered(registry, load=self._load, ensure_loaded=self._ensure_loaded, retire=self._retire)
        )
        self._served = {name: Served(name=name, path=path) for name, path in models.items()}
        for full, path in adapters.items():
            name, _, adapter = full.partition(":")
            self._served[name].adapters[adapter] = path
        for name, (path, previous) in (deployments.restore() if deployments else {}).items():
            self._served[name].path, self._served[name].previous = path, previous
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

    async def list_registered(self) -> list[tuple[str, ModelVersion]]:
        """Return the names of the registry, with what they stand for now."""
        if self._registered is None:
            return []
        found = await self._registered.list_names()
        return [(name, version) for name, version in found if version.name not in self._served]

    def versions(self) -> list[tuple[str, Version]]:
        """Return the loaded versions for new requests, by name."""
        return [(served.name, served.version) for served in self._all() if served.version is not None]

    def _all(self) -> list[Served]:
        """Return the served names, those of the registry that were asked for included."""
        return [*self._served.values(), *(self._registered.list_served() if self._registered else [])]

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

    def find_registry(self, full: str | None) -> Registered | None:
        """Return the models of the registry if a name is one of theirs, existing or not."""
        return None if full is None or full.partition(":")[0] in self._served else self._registered

    async def lease(self, full: str | None) -> Lease:
        """Return the model that a request names, loaded if necessary."""
        if full is not None and (registered := self.find_registry(full)) is not None:
            return await self._lease_registered(full, registered)
        served, adapter = self.find(full)
        while served.version is None:
            # A client that leaves does not stop what the next one needs.
            await asyncio.shield(asyncio.create_task(self._ensure_loaded(served)))
        lease = self._hold(full or served.name, served, served.version, adapter)
        try:
            if adapter is not None:
                await lease.version.load_adapter(adapter, served.adapters[adapter])
        except BaseException:
            lease.close()
            raise
        return lease

    async def _lease_registered(self, full: str, registered: Registered) -> Lease:
        served, version, found = await registered.settle(full, self._served.values())
        lease = self._hold(full, served, version, None)
        try:
            if found.adapter is not None:
                await registered.put_on(lease, found.adapter)
        except BaseException:
            lease.close()
            raise
        return lease

    def _hold(self, name: str, served: Served, version: Version, adapter: str | None) -> Lease:
        version.leases += 1
        served.used = time.monotonic()
        lease = Lease(name, version, self._release)
        lease.use_adapter(adapter)
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
        await self._refuse_registered(name)
        served, adapter = self.find(name)
        if adapter is not None:
            message = "a deployment replaces a model; /admin/adapters takes adapters"
            raise ApiError(message, param="name")
        async with served.lock:
            version = await self._load(path, spare=served)
            if self._deployments is not None:
                try:
                    await asyncio.to_thread(self._deployments.record, name, path, served.path)
                except BaseException:
                    self._retire(version)
                    raise
            old, served.version = served.version, version
            served.previous, served.path = served.path, path
            if old is not None:
                self._retire(old)
        log.info("%s is served from %s", name, path)
        return version

    async def _refuse_registered(self, name: str) -> None:
        if (registered := self.find_registry(name)) is not None:
            await registered.resolve(name)
            message = f"{name} is served from the registry: registry:promote changes what it stands for"
            raise ApiError(message, status=409, param="name")

    async def locate(self, path: str) -> Path:
        """Return an existing folder, or that of a registered model; nothing is downloaded.

        Raises
        ------
        ModelLoadingError
            If there is no such folder.
        ApiError
            If the registered version is no model.
        """
        try:
            return check_folder(path)
        except ModelLoadingError as missing:
            if self._registered is None:
                raise
            try:
                return await self._registered.locate(path)
            except UnknownVersionError:
                raise missing from None

    async def rollback(self, name: str) -> Version:
        """Serve the version before the last deployment again.

        Raises
        ------
        ApiError
            409 if there was none.
        """
        await self._refuse_registered(name)
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
        for served in self._all():
            served.version = None
        await asyncio.gather(
            *(asyncio.to_thread(version.engine.close) for version in versions), *self._ending
        )

    async def _load(self, path: Path, *, spare: Served, check: Callable[[], None] = lambda: None) -> Version:
        """Load a model, after making room for it and after ``check``."""
        # One at a time: each needs the memory that the one before left.
        async with self._loading:
            draft = self._draft if spare.name == self.default else None
            size = estimate_size(path, self._config, draft)
            await self._make_room(size, spare)
            started = time.monotonic()

            def read() -> Loaded:
                check()
                return read_model(path, self._config, draft)

            loaded = await run(read)
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
                for served in self._all()
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
