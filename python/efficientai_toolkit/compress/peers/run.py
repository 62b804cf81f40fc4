"""Benchmark of a model in this engine beside other runtimes."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.files import write_json
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit._base.writable import check_writable
from efficientai_toolkit.benchmark.config import BenchmarkConfig
from efficientai_toolkit.benchmark.report import describe_run
from efficientai_toolkit.benchmark.result import Result, Run
from efficientai_toolkit.benchmark.runner import Observer
from efficientai_toolkit.benchmark.runner import run as run_suite
from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.compress.peers.config import PeersConfig
from efficientai_toolkit.evaluation.text import find_text
from efficientai_toolkit.exports.formats import FORMATS
from efficientai_toolkit.study.folder import RUNS, check_unused, new_run, release
from efficientai_toolkit.study.job import run_job
from efficientai_toolkit.study.table import format_table

RESULTS = "runtimes.json"
"""File of the results in the output folder."""

_STORE = "benchmarks.sqlite"
_SUITE = "efficientai_toolkit.compress.peers.suite:cases"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RuntimeRow(Displayed):
    """Medians of a runtime over the rounds."""

    runtime: str
    status: str
    """``ok``, ``failed`` or ``skipped``."""
    reason: str | None = None
    """Why it was not measured."""
    load_seconds: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    """Peak resident memory beyond that at the start of the process."""
    relative_decode: float | None = None
    """Decoding speed relative to this engine's in the same round, median of the rounds."""
    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Values of each round."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RuntimeComparison(Displayed):
    """Result of :func:`benchmark`."""

    output: Path
    rows: list[RuntimeRow]
    config: dict[str, Any]
    environment: list[tuple[str, str]]


def benchmark(
    model_path: "str | os.PathLike[str] | PeersConfig | None" = None,
    *,
    on_progress: Observer | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> RuntimeComparison:
    """Measure a model in this engine, onnxruntime and llama.cpp, in one run and in turns.

    The model is exported to the formats that they read. A runtime that is not installed is skipped.

    >>> import efficientai_toolkit as eat
    >>> eat.compress.benchmark("small").rows  # doctest: +SKIP

    Parameters
    ----------
    model_path
        Folder in Hugging Face format or hub id, ``None`` for the bundled model, or a whole
        :class:`PeersConfig`.
    on_progress
        Called before and after each process.
    show_progress
        Show a progress bar during downloads.
    **settings
        Fields of :class:`PeersConfig`.

    Returns
    -------
    RuntimeComparison

    Raises
    ------
    ConfigError, DatasetError, ModelLoadingError
        If a setting, the text or the model cannot be used.
    TrainingError
        If the output folder holds other results or cannot be written.
    """
    if isinstance(model_path, PeersConfig):
        config = model_path.with_values(settings)
    else:
        path = None if model_path is None else os.fspath(model_path)
        config = PeersConfig(model_path=path, **settings)
    find_text(config.data)
    folder = hub.resolve(config.model_path or str(MODEL), show_progress=show_progress).absolute()
    output = new_run(Path(RUNS), "runtimes") if config.output is None else Path(config.output).expanduser()
    try:
        check_unused(output, _STORE, what="a benchmark", resume=None, overwrite=config.overwrite)
        check_writable(output)
        output.mkdir(parents=True, exist_ok=True)
        exports, failures = _export(config, folder, output)
        work = {
            "model": str(folder),
            "exports": exports,
            "failures": failures,
            **{name: getattr(config, name) for name in _WORK},
        }
        arguments = {"work": work, "runtimes": config.runtimes, "rounds": config.rounds}
        run = run_suite(
            Suite(source=_SUITE, arguments=arguments),
            BenchmarkConfig(timeout=config.timeout),
            output=output / _STORE,
            on_progress=on_progress,
        )
        result = RuntimeComparison(
            output=output,
            rows=_summarize(config, run),
            config=config.to_dict(),
            environment=describe_run(run),
        )
        write_json(output / RESULTS, asdict(result))
    finally:
        release(output)
    return result


_WORK = ("data", "prompt_tokens", "generated_tokens", "repeats")


def _export(config: PeersConfig, folder: Path, output: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Export the model to the formats that are needed; return paths and failures."""
    exports: dict[str, str] = {}
    failures: dict[str, str] = {}
    for name, kind in config.list_formats().items():
        path = (output / f"model-{name}{FORMATS[name].suffix}").absolute()
        request = {"model_path": str(folder), "format": name, "output": str(path), "overwrite": True}
        job = run_job("efficientai_toolkit.compress.stages:export", {**request, "type": kind})
        if job.error is None:
            exports[name] = str(path)
        else:
            failures[name] = job.error
    return exports, failures


def _summarize(config: PeersConfig, run: Run) -> list[RuntimeRow]:
    found = {
        name: [result for result in run.results if result.params["runtime"] == name]
        for name in config.runtimes
    }
    engine = found.get("engine", [])
    return [_describe(name, results, engine) for name, results in found.items()]


def _describe(name: str, results: list[Result], engine: list[Result]) -> RuntimeRow:
    problem = next((one for one in results if one.status != "ok"), None)
    if problem is not None:
        return RuntimeRow(runtime=name, status=problem.status, reason=problem.reason)
    samples = {
        metric: [value for one in results for value in one.metrics[metric]]
        for metric in ("load", "prefill", "decode", "size")
    }
    base = {one.params["round"]: one.metrics["decode"][0] for one in engine if one.status == "ok"}
    ratios = [
        one.metrics["decode"][0] / base[one.params["round"]] for one in results if one.params["round"] in base
    ]
    memory = [max(one.memory or 0, one.mlx_memory or 0) for one in results]
    return RuntimeRow(
        runtime=name,
        status="ok",
        load_seconds=median(samples["load"]),
        prefill_tokens_per_second=median(samples["prefill"]),
        decode_tokens_per_second=median(samples["decode"]),
        size_bytes=int(median(samples["size"])),
        memory_bytes=int(median(memory)),
        relative_decode=median(ratios) if ratios else None,
        samples=samples,
    )


def format_rows(rows: list[RuntimeRow]) -> str:
    """Format rows as a text table, with what was not measured below it."""
    done = [row for row in rows if row.status == "ok"]
    lines = [format_table(done, _COLUMNS)] if done else []
    return "\n".join([*lines, *(f"{row.runtime} {row.status}: {row.reason}" for row in rows if row.reason)])


_COLUMNS: dict[str, Callable[[RuntimeRow], str]] = {
    "runtime": lambda row: row.runtime,
    "size": lambda row: format_size(row.size_bytes or 0),
    "load": lambda row: f"{row.load_seconds:.2f} s",
    "prefill": lambda row: f"{row.prefill_tokens_per_second:,.0f}",
    "decode": lambda row: f"{row.decode_tokens_per_second:,.1f}",
    "to engine": lambda row: "–" if row.relative_decode is None else f"{row.relative_decode:.2f}×",
    "memory": lambda row: format_size(row.memory_bytes or 0),
}
"""Functions that format a cell, by title. Speeds are in tokens per second."""
