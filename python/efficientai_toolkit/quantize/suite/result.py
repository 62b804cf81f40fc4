"""Result of a benchmark of quantized models, and its files."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.files import write_csv, write_json
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.quantize.suite.measurement import Measurement, find_front

RESULTS = "results.json"
"""File of the results in the output folder."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class BenchmarkResult(Displayed):
    """Result of :func:`efficientai_toolkit.quantize.benchmark`."""

    output: Path
    """Folder with ``results.json``, ``.csv`` and ``.md``, ``report.html``, plots and models."""
    rows: list[Measurement]
    """The original and the variants of each model."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of the benchmark."""
    layers: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Relative squared error of the weights of each layer, by ``model/variant``."""
    environment: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Where and how the results were measured."""

    def _displayed(self) -> Iterable[tuple[str, object]]:
        """Return folder, counts and the front."""
        failed = sum(row.error is not None for row in self.rows)
        front = [row.variant for row in find_front(self.rows)]
        return [("output", self.output), ("rows", len(self.rows)), ("failed", failed), ("front", front)]

    @property
    def front(self) -> list[Measurement]:
        """Variants that no other one of their model beats in size, speed and divergence at once."""
        return find_front(self.rows)

    def to_csv(self, path: Path | str) -> None:
        """Write a line per row; tasks and settings are columns of their own."""
        tasks = list(dict.fromkeys(name for row in self.rows for name in row.tasks))
        names = [f.name for f in fields(Measurement) if f.name not in {"tasks", "samples", "settings"}]
        write_csv(
            Path(path),
            [*names, "settings", *tasks],
            (
                [
                    *(getattr(row, name) for name in names),
                    json.dumps(row.settings),
                    *(row.tasks.get(task) for task in tasks),
                ]
                for row in self.rows
            ),
        )

    def to_json(self, path: Path | str) -> None:
        """Write everything, as :meth:`load` reads it."""
        write_json(Path(path), asdict(self))

    @classmethod
    def load(cls, path: Path | str) -> "BenchmarkResult":
        """Read the results of an output folder, or its ``results.json``.

        Raises
        ------
        ConfigError
            If there are none, or they are damaged.
        """
        path = Path(path).expanduser()
        file = path / RESULTS if path.is_dir() else path
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            rows = [_row(values) for values in stored["rows"]]
            environment = [(str(name), str(text)) for name, text in stored["environment"]]
            config, layers = dict(stored["config"]), dict(stored["layers"])
        except OSError as error:
            message = (
                f"{path} holds no results ({error.strerror or error}); "
                "`efficientai-toolkit quantized-model-benchmarks:run --output FOLDER` makes them"
            )
            raise ConfigError(message) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            message = f"{file}: not the results of a benchmark ({error})"
            raise ConfigError(message) from error
        return cls(output=file.parent, rows=rows, config=config, layers=layers, environment=environment)


def _row(values: Any) -> Measurement:
    row = Measurement(**values)
    numbers: Sequence[object] = [
        row.size_bytes, row.perplexity, row.perplexity_increase, row.mean_kl, row.top_agreement,
        row.decode_tokens_per_second, row.prefill_tokens_per_second, row.peak_memory_bytes,
    ]  # fmt: skip
    kinds = int | float if row.error is None else int | float | None
    if not all(isinstance(number, kinds) for number in numbers):
        message = f"row {row.variant!r} lacks a number"
        raise ValueError(message)
    if not isinstance(cast("object", row.model), str) or not isinstance(cast("object", row.variant), str):
        message = "a row without model and variant"
        raise TypeError(message)
    return row


def read_layers(folder: Path) -> dict[str, float]:
    """Return the errors of the layers of a quantized model; empty if its report cannot be read."""
    try:
        report = json.loads((folder / "quantization.json").read_text(encoding="utf-8"))
        return {layer["path"]: float(layer["weight_error"]) for layer in report["report"]["layers"]}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
