"""Models of the registry by name: ``NAME``, ``NAME@ALIAS``.

Numbers are no names here: whoever asks for all of them would fill the memory. Every request asks the registry
what its name stands for now; the first one after a promotion lets the next version take the place of the one
before. Nothing is downloaded.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from efficientai_toolkit import hub
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.registry.names import PRODUCTION, UnknownVersionError
from efficientai_toolkit.registry.registry import Registry
from efficientai_toolkit.registry.version import ModelVersion
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.served import Lease, Served
from efficientai_toolkit.server.version import Version

log = logging.getLogger(__package__)

_PREFIX = "registry:"
"""Before the names of registered adapters on a model; configured ones have no colon."""


class Load(Protocol):
    """Loads a model after ``check``, which takes long, too."""

    def __call__(self, path: Path, *, spare: Served, check: Callable[[], None]) -> Awaitable[Version]:
        """Load the model in ``path``; ``spare`` is not dropped to make room."""
        ...


_RETRY_SECS = 60.0
"""Seconds after which a version that could not be loaded is tried again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """What a name stands for."""

    name: str
    """Served name of the model: the shortest one for it, so that it is in memory once."""
    model: str
    """Version, or folder, of the model."""
    path: Path
    check: Callable[[], None]
    """Whether the files are those that were registered."""
    adapter: ModelVersion | None


class Registered:
    """What is served from a registry.

    Parameters
    ----------
    registry
        Registry.
    load
        Loads a model.
    ensure_loaded
        Loads a configured model.
    retire
        Ends a version after its last request.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        load: Load,
        ensure_loaded: Callable[[Served], Coroutine[None, None, None]],
        retire: Callable[[Version], None],
    ) -> None:
        self.registry = registry
        self._load = load
        self._ensure_loaded = ensure_loaded
        self._retire = retire
        self._served: dict[str, Served] = {}
        self._resolved: dict[str, Resolved] = {}
        """What the names that were asked for stand for."""
        self._states: dict[str, int] = {}
        """States of the registry in which they did."""
        self._adapters: dict[str, str] = {}
        """Adapters that were loaded last for the names that stand for one."""
        self._refused: dict[str, float] = {}
        """Adapters that could not be loaded, and the time of the next attempt."""
        self._dropping: set[asyncio.Task[None]] = set()

    def list_served(self) -> list[Served]:
        """Return the served names that were asked for."""
        return list(self._served.values())

    async def list_names(self) -> list[tuple[str, ModelVersion]]:
        """Return what requests may name, with what it stands for now: each model, and each of its aliases."""
        versions = await asyncio.to_thread(self.registry.list_versions)
        names: dict[str, ModelVersion] = {}
        for version in versions:
            # The last one, unless there is a production version.
            if version.name not in names or PRODUCTION not in names[version.name].aliases:
                names[version.name] = version
        for version in versions:
            names |= {f"{version.name}@{alias}": version for alias in version.aliases}
        return [(name, version) for name, version in names.items() if version.kind != "checkpoint"]

    async def describe(self, full: str) -> ModelVersion:
        """Return the version that a name stands for; errors as in :meth:`resolve`."""
        await self.resolve(full)
        return await asyncio.to_thread(self.registry.get, full)

    async def resolve(self, full: str) -> Resolved:
        """Ask the registry what a name of a request stands for.

        Raises
        ------
        ApiError
            404 if it stands for nothing; 400 for a checkpoint, or an adapter whose base model is not here.
        """
        state = self.registry.read_state()
        if self._states.get(full) == state:
            return self._resolved[full]
        try:
            if "/" in full:
                raise UnknownVersionError
            found = await asyncio.to_thread(_resolve, self.registry, full)
        except UnknownVersionError:
            self._forget(full)
            message = f"the model {full[:100]!r} does not exist; GET /v1/models lists those that do"
            raise ApiError(message, status=404, param="model", code="model_not_found") from None
        before = self._resolved.get(full)
        self._resolved[full], self._states[full] = found, state
        if found.adapter is None:
            self._adapters.pop(full, None)
        if before is not None and before.name != found.name:
            self._drop_unused(before.name)
        return found

    async def settle(self, full: str, configured: Iterable[Served]) -> tuple[Served, Version, Resolved]:
        """Return the loaded model that a name stands for.

        Parameters
        ----------
        full
            Name.
        configured
            Names that the server was started with, whose models adapters of the registry share.
        """
        while True:
            found = await self.resolve(full)
            served = next((each for each in configured if found.adapter and each.path == found.path), None)
            if served is None:
                served = self._served.setdefault(found.name, Served(name=found.name, path=found.path))
                if served.version is not None and _is_current(served, found):
                    own = {served.name, f"{served.name}@{PRODUCTION}"}
                    if served.loaded != found.model and full not in own:
                        # It never stood for the version that stays.
                        message = f"{found.model} cannot be served; the log of the server tells why"
                        raise ApiError(message)
                    return served, served.version, found
                loading = self._follow(served, full)
            elif served.version is not None:
                return served, served.version, found
            else:
                loading = self._ensure_loaded(served)
            # A client that leaves does not stop what the next one needs.
            await asyncio.shield(asyncio.create_task(loading))

    async def put_on(self, lease: Lease, adapter: ModelVersion) -> None:
        """Load a registered adapter for a request; if that fails, the one before stays.

        Parameters
        ----------
        lease
            Use of the base model.
        adapter
            Version.
        """
        version = lease.version
        name = _PREFIX + adapter.reference
        lease.use_adapter(name)
        before = self._adapters.get(lease.name)
        if time.monotonic() < self._refused.get(name, 0.0) and before in version.adapters:
            lease.use_adapter(before)
            return
        if name not in version.adapters:
            try:
                await asyncio.to_thread(self.registry.verify, adapter)
                await version.load_adapter(name, adapter.path)
            except ToolkitError:
                if before is None or before not in version.adapters:
                    raise
                log.exception("%s stays at %s", lease.name, before.removeprefix(_PREFIX))
                self._refused[name] = time.monotonic() + _RETRY_SECS
                lease.use_adapter(before)
                return
        self._adapters[lease.name] = name
        needed = set(self._adapters.values())
        for other in [each for each in version.adapters if each.startswith(_PREFIX)]:
            if other not in needed and not version.users[other]:
                task = asyncio.create_task(_drop(version, other))
                self._dropping.add(task)
                task.add_done_callback(self._dropping.discard)

    async def locate(self, text: str) -> Path:
        """Return the folder of a version, with ``NAME/NUMBER`` too, that is to be deployed.

        Raises
        ------
        UnknownVersionError
            If it does not exist.
        ApiError
            If it is no model.
        """
        version = await asyncio.to_thread(self.registry.get, text)
        if version.kind != "model":
            message = f"{text[:100]} is no model but {version.kind}; an adapter is served under its own name"
            raise ApiError(message, param="path")
        await asyncio.to_thread(self.registry.verify, version)
        return version.path

    async def _follow(self, served: Served, full: str) -> None:
        """Load what a name stands for, in place of what it stood for before."""
        async with served.lock:
            # Another request may have done it, or the alias has moved on.
            found = await self.resolve(full)
            if self._served.get(found.name) is not served or _is_current(served, found):
                return
            try:
                version = self._take(found, served) or await self._load(
                    found.path, spare=served, check=found.check
                )
            except Exception:
                if served.version is None or found.adapter is not None:
                    raise
                log.exception("%s stays at %s: %s cannot be served", served.name, served.loaded, found.model)
                served.refused, served.retry_at = found.model, time.monotonic() + _RETRY_SECS
                return
            if self._served.get(found.name) is not served:
                self._retire(version)
                return
            old, served.version = served.version, version
            served.path, served.loaded, served.refused = found.path, found.model, None
            if old is not None:
                self._retire(old)
        log.info("%s is served from %s", served.name, found.path)

    def _take(self, found: Resolved, served: Served) -> Version | None:
        """Return the version from the longer name that it has in memory, such as that of a candidate."""
        if served.name != found.model.partition("/")[0]:
            return None
        for other in self._served.values():
            if other is not served and other.version is not None and other.loaded == found.model:
                del self._served[other.name]
                version, other.version = other.version, None
                return version
        return None

    def _forget(self, full: str) -> None:
        self._adapters.pop(full, None)
        self._states.pop(full, None)
        before = self._resolved.pop(full, None)
        if before is not None:
            self._drop_unused(before.name)

    def _drop_unused(self, name: str) -> None:
        """Let a model go that no name stands for any more."""
        if all(found.name != name for found in self._resolved.values()):
            served = self._served.pop(name, None)
            if served is not None and served.version is not None:
                version, served.version = served.version, None
                self._retire(version)


async def _drop(version: Version, adapter: str) -> None:
    # The model itself may go at the same time.
    with suppress(ApiError):
        await version.drop_adapter(adapter)


def _is_current(served: Served, found: Resolved) -> bool:
    if served.version is None:
        return False
    if found.model == served.loaded:
        return True
    is_refused = found.model == served.refused and time.monotonic() < served.retry_at
    # An adapter on another model would be something else.
    return is_refused and found.adapter is None


def _resolve(registry: Registry, full: str) -> Resolved:
    version = registry.get(full)
    if version.kind == "checkpoint":
        message = f"{version.reference} is a checkpoint of a training run, which cannot be served"
        raise ApiError(message, param="model")
    if version.kind == "model":
        return Resolved(
            name=_shorten(registry, version, full),
            model=version.reference,
            path=version.path,
            check=partial(registry.verify, version),
            adapter=None,
        )
    for parent in registry.lineage(version.reference)[1:]:
        if parent.kind == "model":
            return Resolved(
                name=_shorten(registry, parent, parent.reference),
                model=parent.reference,
                path=parent.path,
                check=partial(registry.verify, parent),
                adapter=version,
            )
    path = _find_base(version)
    return Resolved(name=str(path), model=str(path), path=path, check=lambda: None, adapter=version)


def _shorten(registry: Registry, version: ModelVersion, full: str) -> str:
    """Return the bare name where it stands for the same version."""
    default = registry.get(version.name)
    return version.name if default.reference == version.reference else full


def _find_base(version: ModelVersion) -> Path:
    """Return the folder of the base model of an adapter."""
    if version.base is not None:
        folder = Path(version.base) if Path(version.base).is_absolute() else hub.find_cached(version.base)
        if folder is not None and folder.is_dir():
            return folder.resolve()
    message = (
        f"the base model {version.base or 'of ' + version.reference} is not on this machine, and requests do "
        f"not download: register {version.reference} again with its folder as `base`"
    )
    raise ApiError(message, param="model")
