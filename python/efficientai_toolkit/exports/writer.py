"""What a format has to provide: a writer, which the table of formats names."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit.exports.config import ExportConfig
from efficientai_toolkit.models.loading import load

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


@dataclass(frozen=True, kw_only=True)
class Job:
    """One export."""

    config: ExportConfig
    """All settings, with ``type`` and ``output`` filled in."""
    source: Path
    """Folder, or file, of the model."""
    adapter: Path | None
    """Folder of the adapter to merge, or to export alone."""
    output: Path
    """File or folder to write."""
    observe: Callable[[str], None]
    """Receives progress of the engine, events as JSON."""
    given: "tuple[Model, Tokenizer] | None" = None
    """A model in memory to export in place of that in ``source``."""

    @cached_property
    def loaded(self) -> "tuple[Model, Tokenizer]":
        """The model, with the adapter on it, in the data type of the checkpoint, and its tokenizer."""
        if self.given is not None:
            return self.given
        return load(self.source, self.adapter, "auto")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a writer did."""

    notes: list[str] = field(default_factory=list[str])
    """What is not as it was, one line each."""
    types: dict[str, int] = field(default_factory=dict[str, int])
    """Number of tensors of each number format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What reading the result back showed."""

    largest_difference: float
    """Largest difference to the model, relative to the largest number compared; 0 if the result is exact."""
    compared: str
    """What was compared: ``weights`` or ``logits``."""


class Writer(ABC):
    """Writes models in one format."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @abstractmethod
    def check(self) -> None:
        """Refuse what the format cannot express, before a model is loaded.

        Raises
        ------
        ConfigError, DependencyError
            If a setting does not go together with the format, or a library is missing.
        """

    @abstractmethod
    def write(self) -> Written:
        """Write ``job.output`` under a temporary name, then rename it.

        Raises
        ------
        ConfigError
            If the format cannot express the model. Nothing is left behind.
        """

    @abstractmethod
    def verify(self) -> Verified:
        """Read ``job.output`` back and compare it with the model."""

    def report_parts(self) -> Callable[[int, int], None]:
        """Return what reports about ten times how far writing is."""
        last = -1

        def report(done: int, total: int) -> None:
            nonlocal last
            tenth = math.floor(10 * done / max(total, 1))
            if tenth > last:
                last = tenth
                event = {"event": "progress", "stage": "write", "done": done, "total": total}
                self.job.observe(json.dumps(event))

        return report
