"""Result of a benchmark of quantized models, and its files."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.files import write_csv, write_json
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.quantize.suite.measurement import Measurement, find_front

RESULTS = "results.json"
"""File of the results in the output folder."""

_NUMBERS = (
    "size_bytes", "bits_per_weight", "perplexity", "perplexity_increase", "mean_kl", "p99_kl",
    "top_agreement", "load_seconds", "prefill_tokens_per_second", "decode_tokens_per_second",
    "peak_memory_bytes",
)  # fmt: skip
"""What every row has that was measured."""


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
    sensitivity: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Mean KL divergence that quantizing each layer alone costs, by ``model/variant``, if it was measured."""
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
            config, layers, sensitivity = (dict(stored[name]) for name in ("config", "layers", "sensitivity"))
        except OSError as error:
            message = (
                f"{path} holds no results ({error.strerror or error}); "
                "`efficientai-toolkit quantized-model-benchmarks:run --output FOLDER` makes them"
            )
            raise ConfigError(message) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            message = f"{file}: not the results of a benchmark ({error})"
            raise ConfigError(message) from error
        return cls(
            output=file.parent,
            rows=rows,
            config=config,
            layers=layers,
            sensitivity=sensitivity,
            environment=environment,
        )


def _row(values: Any) -> Measurement:
    row = Measurement(**values)
    names = ("model", "variant")
    if not all(isinstance(values[name], str) for name in names):
        message = "a row without model and variant"
        raise TypeError(message)
    for name in _NUMBERS:
        value: object = values.get(name)
        if type(value) not in {int, float} and (row.error is None or value is not None):
            message = f"row {row.variant!r} has no {name}"
            raise ValueError(message)
    return row


def read_layers(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return error and sensitivity of the layers of a quantized model; empty if its report has none."""
    try:
        report = json.loads((folder / "quantization.json").read_text(encoding="utf-8"))["report"]
        errors = {layer["path"]: float(layer["weight_error"]) for layer in report["layers"]}
        # Mixed precision measures it.
        sensitivity = {one["layer"]: float(one["kl"]) for one in report.get("sensitivity", ())}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}, {}
    return errors, sensitivity
