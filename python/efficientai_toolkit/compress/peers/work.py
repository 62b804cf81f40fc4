"""The work that every runtime does."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from efficientai_toolkit.evaluation.text import read_sequences
from efficientai_toolkit.exceptions import ToolkitError


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What every runtime does."""

    model: str
    """Folder."""
    exports: Mapping[str, str]
    """Paths of the exports by format."""
    failures: Mapping[str, str]
    """Why exports failed, by format."""
    data: str | None
    prompt_tokens: int
    generated_tokens: int
    repeats: int

    @property
    def threads(self) -> int:
        """Number of threads of a runtime that does not choose it by itself."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def find_export(self, name: str) -> Path:
        """Return the path of an export.

        Raises
        ------
        ToolkitError
            If it failed.
        """
        if name in self.failures:
            message = f"export to {name}: {self.failures[name]}"
            raise ToolkitError(message)
        return Path(self.exports[name])

    def read_prompt(self) -> list[int]:
        """Return the token ids of the prompt."""
        from efficientai_toolkit._engine.core import core

        tokenizer = core.models.load_tokenizer(self.model, None)
        return read_sequences(tokenizer, self.data, count=1, length=self.prompt_tokens)[0]
