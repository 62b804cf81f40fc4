"""What the registry tells about its content."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit._base.display import Displayed

Kind = Literal["model", "adapter", "checkpoint"]
"""What a version is; a checkpoint is a step of a training run, to be resumed."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ModelVersion(Displayed):
    """A version of a registered model."""

    name: str
    """Registered name."""
    number: int
    """1, 2, …; numbers are not used again."""
    kind: Kind
    path: Path
    """Absolute folder."""
    fingerprint: str
    """SHA-256 of names and content of its files."""
    size_bytes: int
    files: int
    """Number of files that are part of it."""
    parent: str | None
    """Version that it was made from, ``NAME/NUMBER``."""
    base: str | None
    """Folder or hub id of the model that it was made from."""
    data_fingerprint: str | None
    """SHA-256 of the data that it was trained on, as its ``run.json`` tells."""
    metrics: dict[str, float]
    settings: dict[str, Any]
    """Settings of the run that made it."""
    tags: dict[str, str]
    description: str
    created: str
    """Time in UTC, in ISO 8601."""
    aliases: tuple[str, ...]
    """Aliases that point to it now, sorted."""

    @property
    def reference(self) -> str:
        """``NAME/NUMBER``."""
        return f"{self.name}/{self.number}"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RegisteredModel(Displayed):
    """A name with its versions."""

    name: str
    versions: tuple[int, ...]
    """Numbers, ascending."""
    aliases: dict[str, int]
    """Number by alias."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class AliasChange(Displayed):
    """A move of an alias."""

    alias: str
    before: int | None
    """Number it pointed to; ``None`` if it was new."""
    after: int | None
    """Number it points to since; ``None`` if it was taken away."""
    time: str
    """In UTC, in ISO 8601."""
