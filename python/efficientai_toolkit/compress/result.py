"""Result of a compression, and its file."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.files import write_csv, write_json
from efficientai_toolkit.compress.choice import Choice
from efficientai_toolkit.compress.measurement import CandidateRow
from efficientai_toolkit.exceptions import ConfigError

FOLDER = "compression"
"""Folder of the report and the stages in the output folder."""

RESULTS = "results.json"
"""File of the results in that folder."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class CompressResult(Displayed):
    """Result of :func:`efficientai_toolkit.compress.compress`."""

    output: Path
    """Folder of the compressed model, if there is one, and of ``compression/``: ``report.html``,
    ``results.json``, ``.csv`` and ``.md``, and plots."""
    rows: list[CandidateRow]
    """The original and the candidates."""
    choice: Choice
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings."""
    exports: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Name, path, size and notes of each exported file, or the ``error``."""
    environment: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Where the results were measured."""

    def _displayed(self) -> Iterable[tuple[str, object]]:
        """Return folder, counts and the choice."""
        measured = sum(row.is_measured for row in self.rows)
        chosen = None if self.choice.row is None else self.choice.row.variant
        return [
            ("output", self.output),
            ("rows", len(self.rows)),
            ("measured", measured),
            ("chosen", chosen),
            ("meets_budget", self.choice.meets_budget),
        ]

    @property
    def front(self) -> list[CandidateRow]:
        """Candidates that no other one beats in size, speed and divergence at once."""
        return [row for row in self.rows if row.on_front]

    def to_csv(self, path: Path | str) -> None:
        """Write a line per row."""
        skipped = {"tasks", "samples", "settings"}
        names = [one.name for one in fields(CandidateRow) if one.name not in skipped]
        write_csv(Path(path), names, ([getattr(row, name) for name in names] for row in self.rows))

    def to_json(self, path: Path | str) -> None:
        """Write everything, as :meth:`load` reads it."""
        write_json(Path(path), asdict(self))

    @classmethod
    def load(cls, path: Path | str) -> "CompressResult":
        """Read the result in an output folder.

        Raises
        ------
        ConfigError
            If there is none, or it is damaged.
        """
        folder = Path(path).expanduser()
        file = folder / FOLDER / RESULTS
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            rows = [CandidateRow(**values) for values in stored["rows"]]
            choice = stored["choice"]
            row = None if choice["row"] is None else CandidateRow(**choice["row"])
            return cls(
                output=folder,
                rows=rows,
                choice=Choice(row=row, meets_budget=choice["meets_budget"], reason=choice["reason"]),
                config=dict(stored["config"]),
                exports=list(stored["exports"]),
                environment=[(str(name), str(text)) for name, text in stored["environment"]],
            )
        except OSError as error:
            message = f"{folder} holds no compression ({error.strerror or error})"
            raise ConfigError(message) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            message = f"{file}: not the result of a compression ({error})"
            raise ConfigError(message) from error
