"""Served names, and the use of what is behind them."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from efficientai_toolkit.server.version import Version


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
    loaded: str | None = None
    """Registered version behind ``version``, ``NAME/NUMBER``."""
    refused: str | None = None
    """Registered version that could not be loaded, so that the one before stays."""
    retry_at: float = 0.0
    """Time from which it is tried again."""
    created: int = field(default_factory=lambda: int(time.time()))


class Lease:
    """The use of a version by one request, until :meth:`close`."""

    def __init__(self, name: str, version: Version, release: Callable[[Version], None]) -> None:
        self.name = name
        self.version = version
        self.adapter: str | None = None
        self.blend: tuple[tuple[str, float], ...] = ()
        """Adapters and their weights, in place of the one adapter."""
        self._release: Callable[[Version], None] | None = release

    def use_adapter(self, name: str | None) -> None:
        """Use an adapter of the version, in place of the one before."""
        if self.adapter is not None:
            self.version.leave_adapter(self.adapter)
        if name is not None:
            self.version.users[name] += 1
        self.adapter = name

    def use_blend(self, weights: Mapping[str, float]) -> None:
        """Use several adapters of the version with their weights, in place of those before."""
        for name, _ in self.blend:
            self.version.leave_adapter(name)
        self.version.users.update(weights.keys())
        self.blend = tuple(weights.items())

    def close(self) -> None:
        """Give the version back; a second call does nothing."""
        if self._release is not None:
            self.use_adapter(None)
            self.use_blend({})
            self._release(self.version)
            self._release = None
