"""The served names and the versions of models behind them."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.exceptions import ModelLoadingError, ToolkitError
from efficientai_toolkit.server.backend import create_backend
from efficientai_toolkit.server.dialects.base import Dialect
from efficientai_toolkit.server.dialects.detect import detect_dialect
from efficientai_toolkit.server.engine import EngineThread
from efficientai_toolkit.server.errors import ApiError

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer
    from efficientai_toolkit.server.config import ServeConfig

log = logging.getLogger(__package__)

_RETRY_AFTER = 5
"""Seconds after which a model that does not fit now may."""

_DENSE = 4
"""Bytes per number that a checkpoint of 2 bytes takes where it is computed in float32."""


@dataclass(kw_only=True, slots=True, eq=False)
class Version:
    """A loaded model."""

    path: Path
    model: "Model"
    tokenizer: "Tokenizer"
    engine: EngineThread
    dialect: Dialect
    size: int
    """Estimated bytes of its weights."""
    leases: int = 0
    is_retired: bool = False

    @property
    def context_length(self) -> int | None:
        """Largest number of tokens of a text, as the model's configuration tells."""
        found = self.model.config.get("max_position_embeddings")
        return found if isinstance(found, int) else None

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model has logits for."""
        return int(self.model.config.get("vocab_size", self.tokenizer.vocab_size))


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
    """

    def __init__(
        self, config: "ServeConfig", models: Mapping[str, Path], adapters: Mapping[str, Path]
    ) -> None:
        self._config = config
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
        served.used = time.monotonic()
        lease = Lease(full or served.name, version, adapter, self._release)
        try:
            if adapter is not None:
                await self._ensure_adapter(version, adapter, served.adapters[adapter])
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
            await self._ensure_adapter(lease.version, adapter, path)
        finally:
            lease.close()
        served.adapters[adapter] = path

    async def unload_adapter(self, full: str) -> None:
        """Forget an adapter; the requests that use it end with it."""
        served, adapter = self.find(full)
        if adapter is None:
            message = f"{full} is a model, not an adapter"
            raise ApiError(message, param="name")
        del served.adapters[adapter]
        version = served.version
        if version is not None and adapter in version.model.adapters:
            model = version.model
            await version.engine.call(lambda: model.unload_adapter(adapter))

    async def close(self) -> None:
        """End all engines."""
        versions = [version for _, version in self.versions()]
        for served in self._served.values():
            served.version = None
        await asyncio.gather(
            *(asyncio.to_thread(version.engine.close) for version in versions), *self._ending
        )

    async def _ensure_adapter(self, version: Version, adapter: str, path: Path) -> None:
        model = version.model
        if adapter in model.adapters:
            return

        def load() -> None:
            if adapter not in model.adapters:
                model.load_adapter(str(path), adapter)

        await version.engine.call(load)

    async def _load(self, path: Path, *, spare: Served) -> Version:
        """Load a model, after making room for it."""
        config = self._config
        # One at a time: each needs the memory that the one before left.
        async with self._loading:
            size = _estimate_size(path, dense=config.dtype in {None, "float32"})
            await self._make_room(size, spare)
            started = time.monotonic()
            model, tokenizer = await asyncio.to_thread(_read, path, config.dtype, config.bits)
            log.info("loaded %s in %.1f s", path, time.monotonic() - started)
        version = Version(
            path=path,
            model=model,
            tokenizer=tokenizer,
            engine=EngineThread(
                model,
                create_backend(model, tokenizer, config),
                max_batch=config.max_batch,
                max_queue=config.max_queue,
            ),
            dialect=detect_dialect(path, model.model_type, config.tool_dialect),
            size=size,
        )
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


def _read(path: Path, dtype: str | None, bits: int | None) -> "tuple[Model, Tokenizer]":
    from efficientai_toolkit.models.loading import load

    return load(path, dtype=dtype, bits=bits, show_progress=False)


def _estimate_size(path: Path, *, dense: bool) -> int:
    """Estimate the bytes that the weights in a folder take."""
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return stored * (_DENSE // 2) if dense and _is_half(path) else stored


def _is_half(path: Path) -> bool:
    """Whether dense weights of two bytes are computed as float32, on a CPU."""
    from efficientai_toolkit._base.config import read_pairs
    from efficientai_toolkit.device import hardware

    try:
        values: dict[str, Any] = read_pairs(path / "config.json")
    except ToolkitError:
        return False
    kind = values.get("dtype", values.get("torch_dtype"))
    return "quantization" not in values and kind in {"float16", "bfloat16"} and hardware().backend == "cpu"


def check_folder(path: str) -> Path:
    """Return an existing folder: requests never download.

    Raises
    ------
    ModelLoadingError
        If there is none.
    """
    folder = Path(path).expanduser()
    try:
        exists = folder.is_dir()
    except (OSError, ValueError):
        exists = False
    if not exists:
        message = f"the server has no folder {path[:200]!r}"
        raise ModelLoadingError(message)
    return folder.resolve()
