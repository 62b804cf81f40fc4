"""Measurements of models and their quantized variants."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.benchmark.result import Result, Run
from efficientai_toolkit.quantize.suite.cases import QUALITY, QUANTIZE, SPEED, TASK
from efficientai_toolkit.quantize.suite.config import ORIGINAL, SuiteConfig

_NOISE = 1.05
"""Speeds within this factor count as equal, since measurements are noisy."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Measurement(Displayed):
    """A row of a benchmark: a model in its original form or quantized."""

    model: str
    """Short name of the model."""
    variant: str
    """Name of the settings, or ``original``."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of the quantization that differ from the defaults."""
    path: str | None = None
    """Folder or hub id to load; ``None`` if it failed or was not kept."""
    error: str | None = None
    """Why it could not be quantized or measured."""
    size_bytes: int | None = None
    """Size of the weights on disk."""
    bits_per_weight: float | None = None
    """Stored bits per parameter, scales and unquantized parameters included."""
    perplexity: float | None = None
    perplexity_increase: float | None = None
    """Relative increase of the perplexity over the original's; 0.01 is 1 %."""
    mean_kl: float | None = None
    """Mean Kullback–Leibler divergence of the next-token distributions from the original's, in nats."""
    p99_kl: float | None = None
    """99th percentile of the divergence over positions."""
    top_agreement: float | None = None
    """Fraction of positions at which the most likely token is that of the original."""
    positions: int | None = None
    """Number of positions scored."""
    tasks: dict[str, float] = field(default_factory=dict[str, float])
    """Scores by task and metric."""
    load_seconds: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    """Peak memory while it generates, beyond that of the process before: resident, or MLX's if larger."""
    quantize_seconds: float | None = None
    """Time to quantize, without loading."""
    quantize_memory_bytes: int | None = None
    """Peak of MLX's allocator while it is quantized."""
    backend: str | None = None
    on_front: bool = False
    """Whether no other variant of the model is smaller, faster and closer to the original."""
    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Speeds and memory of each process."""

    def _displayed(self) -> Iterable[tuple[str, object]]:
        """Return what was measured."""
        shown = ("model", "variant", "error", "size_bytes", "perplexity", "mean_kl", "top_agreement")
        values = [(name, getattr(self, name)) for name in (*shown, "decode_tokens_per_second")]
        return [(name, value) for name, value in values if value is not None]

    @property
    def is_original(self) -> bool:
        """Whether this is the unquantized model."""
        return self.variant == ORIGINAL


def list_measurements(suite: SuiteConfig, run: Run, refused: dict[str, str]) -> list[Measurement]:
    """Return a row per model and variant.

    Parameters
    ----------
    suite
        Configuration of the benchmark.
    run
        Results of the cases.
    refused
        Why variants were not measured, by name.
    """
    variants: dict[str, dict[str, Any]] = {ORIGINAL: {}, **suite.list_variants()}
    rows = [
        Measurement(model=model, variant=variant, settings=settings, error=refused[variant])
        if variant in refused
        else _measure(run, model, variant, settings)
        for model in suite.label_models()
        for variant, settings in variants.items()
    ]
    front = {id(row) for row in find_front(rows)}
    return [replace(row, on_front=id(row) in front) for row in rows]


def find_front(rows: Sequence[Measurement]) -> list[Measurement]:
    """Return the rows that no other row of their model beats in size, speed and divergence at once."""
    done = [row for row in rows if row.error is None]
    return [row for row in done if not any(_beats(other, row) for other in done if other.model == row.model)]


def _beats(other: Measurement, row: Measurement) -> bool:
    ours, theirs = ((one.size_bytes or 0, one.mean_kl or 0.0) for one in (row, other))
    speed, their_speed = (one.decode_tokens_per_second or 0.0 for one in (row, other))
    if their_speed * _NOISE < speed or any(x > y for x, y in zip(theirs, ours, strict=True)):
        return False
    return theirs != ours or their_speed > speed * _NOISE


def _measure(run: Run, model: str, variant: str, settings: dict[str, Any]) -> Measurement:
    found = [
        result
        for result in run.results
        if (result.params.get("model"), result.params.get("variant")) == (model, variant)
    ]
    # A model that was not quantized is missing in what follows.
    failure = next(
        (
            result
            for name in (QUANTIZE, QUALITY, SPEED)
            for result in _named(found, name)
            if result.status != "ok"
        ),
        None,
    )
    row = Measurement(
        model=model, variant=variant, settings=settings, backend=run.environment["hardware"]["backend"]
    )
    if failure is not None:
        return replace(row, error=f"{failure.case.partition('[')[0]}: {failure.reason}")
    quality, speeds = _named(found, QUALITY), _named(found, SPEED)
    if not quality or not speeds:
        return replace(row, error="not measured")
    scores = {name: value for name, (value,) in quality[0].metrics.items()}
    samples = {
        name: [value for result in speeds for value in result.metrics[name]]
        for name in ("load", "prefill", "decode")
    }
    samples["memory"] = [float(max(one.memory or 0, one.mlx_memory or 0)) for one in speeds]
    size = int(speeds[0].metrics["size"][0])
    row = replace(
        row,
        size_bytes=size,
        bits_per_weight=8 * size / scores["parameters"],
        perplexity=scores["perplexity"],
        perplexity_increase=scores["perplexity"] / scores["reference_perplexity"] - 1,
        mean_kl=scores["mean_kl"],
        p99_kl=scores["p99_kl"],
        top_agreement=scores["top_agreement"],
        positions=int(scores["positions"]),
        tasks={name.removeprefix(TASK): value for name, value in scores.items() if name.startswith(TASK)},
        load_seconds=median(samples["load"]),
        prefill_tokens_per_second=median(samples["prefill"]),
        decode_tokens_per_second=median(samples["decode"]),
        peak_memory_bytes=int(median(samples["memory"])),
        samples=samples,
    )
    for result in _named(found, QUANTIZE):
        metrics = {name: value for name, (value,) in result.metrics.items()}
        row = replace(
            row,
            bits_per_weight=metrics["bits_per_weight"],
            quantize_seconds=metrics["seconds"],
            quantize_memory_bytes=int(metrics["memory"]),
        )
    return row


def _named(results: Sequence[Result], name: str) -> list[Result]:
    return [result for result in results if result.case.partition("[")[0] == name]
