"""Comparison of two rows, or of the rows that two benchmarks have in common."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.benchmark.verdict import Verdict, judge_stored
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.quantize.suite.measurement import Measurement
from efficientai_toolkit.quantize.suite.result import BenchmarkResult

_ROW = "::"
_DECODES = ("prefill", "decode")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Line(Displayed):
    """A quantity of a row on both sides."""

    row: str
    quantity: str
    first: float
    second: float
    shown: tuple[str, str]
    """Both values as text."""
    verdict: Verdict | None = None
    """Of what is measured with noise: speed, time to load and memory."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class QuantizationComparison(Displayed):
    """Result of :func:`compare`."""

    first: str
    second: str
    lines: list[Line]
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Why rows cannot be compared."""
    notes: list[str] = field(default_factory=list[str])
    """In what the benchmarks differ."""


def compare(
    first: BenchmarkResult | Path | str, second: BenchmarkResult | Path | str
) -> QuantizationComparison:
    """Compare two variants, or all variants of the same name of two benchmarks.

    >>> from efficientai_toolkit.quantize import compare
    >>> compare("runs/a::rtn-4bit-g64", "runs/a::gptq-4bit-g64")  # doctest: +SKIP

    Parameters
    ----------
    first, second
        Results or their folders; ``"FOLDER::VARIANT"`` or ``"FOLDER::MODEL/VARIANT"`` is a row of one.

    Returns
    -------
    QuantizationComparison

    Raises
    ------
    ConfigError
        If there are no results, no such row, or no row in common.
    """
    (one, rows_one), (other, rows_other) = _read(first), _read(second)
    names = (_describe(first), _describe(second))
    if len(rows_one) == 1 and len(rows_other) == 1:
        # Named one by one, so that they may have different names.
        (a,), (b,) = rows_one.values(), rows_other.values()
        label = a.variant if a.variant == b.variant else f"{a.variant} / {b.variant}"
        pairs = {label: (a, b)}
    else:
        pairs = {name: (rows_one[name], rows_other[name]) for name in rows_one if name in rows_other}
    if not pairs:
        message = f"{names[0]} and {names[1]} have no variant in common; name one each as FOLDER{_ROW}VARIANT"
        raise ConfigError(message)
    failed = {
        label: next(str(row.error) for row in pair if row.error is not None)
        for label, pair in pairs.items()
        if any(row.error is not None for row in pair)
    }
    lines = [line for label, pair in pairs.items() if label not in failed for line in _compare(label, *pair)]
    return QuantizationComparison(
        first=names[0], second=names[1], lines=lines, failed=failed, notes=_find_differences(one, other)
    )


def _describe(side: BenchmarkResult | Path | str) -> str:
    return str(side.output) if isinstance(side, BenchmarkResult) else str(side)


def _read(side: BenchmarkResult | Path | str) -> tuple[BenchmarkResult, dict[str, Measurement]]:
    """Return results and the rows to compare by name."""
    if isinstance(side, BenchmarkResult):
        result, wanted = side, ""
    else:
        folder, _, wanted = str(side).partition(_ROW)
        result = BenchmarkResult.load(folder)
    rows = {f"{row.model}/{row.variant}": row for row in result.rows}
    if not wanted:
        return result, rows
    found = {name: row for name, row in rows.items() if wanted in {name, row.variant}}
    if len(found) != 1:
        reason = "names several rows" if found else "is not among the rows"
        message = f"{side}: `{wanted}` {reason}: {', '.join(found or rows)}"
        raise ConfigError(message)
    return result, found


def _compare(label: str, a: Measurement, b: Measurement) -> list[Line]:
    lines = [
        Line(row=label, quantity=title, first=x, second=y, shown=(show(x), show(y)))
        for title, (measure, show) in _EXACT.items()
        if (x := measure(a)) is not None and (y := measure(b)) is not None
    ]
    lines += [
        Line(
            row=label,
            quantity=name,
            first=a.tasks[name],
            second=b.tasks[name],
            shown=(_plain(a.tasks[name]), _plain(b.tasks[name])),
        )
        for name in a.tasks
        if name in b.tasks
    ]
    for title, (sample, measure, show) in _NOISY.items():
        x, y = measure(a), measure(b)
        if x is None or y is None:
            continue
        sides = [[[value] for value in row.samples.get(sample, ())] for row in (a, b)]
        verdict = (
            judge_stored(label, title, *sides, higher_is_better=sample in _DECODES) if all(sides) else None
        )
        lines.append(
            Line(row=label, quantity=title, first=x, second=y, shown=(show(x), show(y)), verdict=verdict)
        )
    return lines


def _find_differences(one: BenchmarkResult, other: BenchmarkResult) -> list[str]:
    """Return what makes the values of two benchmarks differ beside their variants."""
    notes = [
        f"{name} differs: {one.config[name]} and {other.config[name]}"
        for name in ("data", "sequences", "length", "prompt_tokens", "generated_tokens")
        if name in one.config and name in other.config and one.config[name] != other.config[name]
    ]
    hardware, other_hardware = (dict(each.environment).get("hardware") for each in (one, other))
    if hardware != other_hardware:
        notes.append(f"the hardware differs: {hardware}; {other_hardware}")
    return notes


def _plain(value: float) -> str:
    return f"{value:,.4g}"


_EXACT: dict[str, tuple[Callable[[Measurement], float | None], Callable[[float], str]]] = {
    "size": (lambda row: row.size_bytes, format_size),
    "bits per weight": (lambda row: row.bits_per_weight, _plain),
    "perplexity": (lambda row: row.perplexity, lambda value: f"{value:,.4f}"),
    "increase of the perplexity": (lambda row: row.perplexity_increase, lambda value: f"{value:+.2%}"),
    "mean KL": (lambda row: row.mean_kl, _plain),
    "99th percentile of KL": (lambda row: row.p99_kl, _plain),
    "top-token agreement": (lambda row: row.top_agreement, lambda value: f"{value:.2%}"),
    "time to quantize": (lambda row: row.quantize_seconds, lambda value: f"{value:,.1f} s"),
}
"""What is measured once, by name, with the function that formats it."""

_NOISY: dict[str, tuple[str, Callable[[Measurement], float | None], Callable[[float], str]]] = {
    "time to load": ("load", lambda row: row.load_seconds, lambda value: f"{value:.3f} s"),
    "prefill": (
        "prefill",
        lambda row: row.prefill_tokens_per_second,
        lambda value: f"{value:,.0f} tokens/s",
    ),
    "decode": ("decode", lambda row: row.decode_tokens_per_second, lambda value: f"{value:,.1f} tokens/s"),
    "peak memory": ("memory", lambda row: row.peak_memory_bytes, format_size),
}
"""What is measured in every process, by name, with the name of its samples."""
