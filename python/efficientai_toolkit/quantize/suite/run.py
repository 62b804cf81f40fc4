"""Benchmark of quantized models."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import refuse_link
from efficientai_toolkit._base.writable import check_writable
from efficientai_toolkit.benchmark.config import BenchmarkConfig
from efficientai_toolkit.benchmark.report import describe_run
from efficientai_toolkit.benchmark.result import Run
from efficientai_toolkit.benchmark.runner import Observer
from efficientai_toolkit.benchmark.runner import run as run_suite
from efficientai_toolkit.benchmark.store import Store
from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.callbacks.base import AnyCallback
from efficientai_toolkit.evaluation.text import find_text
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.quantize.suite.cases import MODELS, list_tasks, locate
from efficientai_toolkit.quantize.suite.config import SuiteConfig
from efficientai_toolkit.quantize.suite.measurement import Measurement, list_measurements
from efficientai_toolkit.quantize.suite.report import write_files
from efficientai_toolkit.quantize.suite.result import RESULTS, BenchmarkResult, read_layers
from efficientai_toolkit.study.folder import RUNS, check_unused, new_run, release
from efficientai_toolkit.study.record import Recorder

STORE = "benchmarks.sqlite"
"""File of the runner's results in the output folder."""

_SUMMARY = ("size_bytes", "perplexity", "mean_kl", "decode_tokens_per_second")
"""Fields of the rows that the record has."""

_SUITE = "efficientai_toolkit.quantize.suite.cases:cases"


def benchmark(
    models: "SuiteConfig | str | Sequence[str] | None" = None,
    *,
    on_progress: Observer | None = None,
    callback: AnyCallback | None = None,
    **settings: Any,
) -> BenchmarkResult:
    """Quantize models in several ways and measure quality, size, memory and speed beside the originals.

    Every measurement has a process of its own. A variant that fails is a row with its ``error``; the others
    are measured. Each result is stored at once, so that ``resume=True`` continues an interrupted benchmark.

    >>> import efficientai_toolkit as eat
    >>> result = eat.quantize.benchmark(techniques=["rtn", "gptq"], bits=[3, 4])  # doctest: +SKIP
    >>> eat.quantize.recommend(result, max_loss="1%", prefer="size").reason  # doctest: +SKIP

    Parameters
    ----------
    models
        A model or several, ``None`` for the bundled one, or a whole :class:`SuiteConfig`.
    on_progress
        Called before and after each process.
    callback
        Receives the benchmark as a run, whose parts are its rows: a
        :class:`~efficientai_toolkit.trackers.Tracker`, another callback, or a list of them.
    **settings
        Fields of :class:`SuiteConfig`: ``techniques``, ``bits``, ``group_sizes``, ``data``, …

    Returns
    -------
    BenchmarkResult

    Raises
    ------
    ConfigError
        If a setting is invalid, every variant is refused, or there is nothing to resume.
    DatasetError
        If there is no held-out text, no calibration text, or no task.
    TrainingError
        If the output folder holds another benchmark or cannot be written.
    """
    if isinstance(models, SuiteConfig):
        config = models.with_values(settings)
    else:
        named = [models] if isinstance(models, str) else list(models or ())
        config = SuiteConfig(models=named, **settings)
    if config.plots:
        require("matplotlib", extra="plots", purpose="`plots` (switch it off, or install it)")
    if config.resume and config.output is None:
        message = "`resume` needs `output`, the folder of the benchmark to resume: give --output too"
        raise ConfigError(message)
    refused = _check(config)
    output = (
        new_run(Path(RUNS), "quantization") if config.output is None else Path(config.output).expanduser()
    )
    try:
        check_unused(output, STORE, what="a benchmark", resume=config.resume, overwrite=config.overwrite)
        check_writable(output)
        refuse_link(output / MODELS)
        if config.overwrite and not config.resume:
            _clear(output)
        paths = [Path(path) for path in (config.data, config.calibration, *config.tasks) if path is not None]
        recorder = Recorder(
            output,
            kind="quantization",
            configuration=config.to_dict(),
            data=paths,
            resume=config.resume,
            callback=callback,
        )
        with recorder:
            recorder.start()
            result = _benchmark(config, output, refused, on_progress)
            for place, row in enumerate(result.rows, 1):
                recorder.log(place, asdict(row))
            recorder.result = {
                f"{row.model}/{row.variant}.{name}": getattr(row, name)
                for row in result.rows
                for name in _SUMMARY
            }
    finally:
        release(output)
    return result


def _benchmark(
    config: SuiteConfig, output: Path, refused: dict[str, str], on_progress: Observer | None
) -> BenchmarkResult:
    measured = replace(config, variants=_accepted(config, refused), techniques=[], settings={})
    suite = Suite(source=_SUITE, arguments={"config": measured.measured(), "output": str(output)})
    run = _find_finished(output / STORE, suite) if config.resume else None
    if run is None:
        run = run_suite(
            suite,
            BenchmarkConfig(timeout=config.timeout),
            output=output / STORE,
            resume=config.resume,
            on_progress=on_progress,
        )
    return _summarize(config, run, output, refused)


def _check(config: SuiteConfig) -> dict[str, str]:
    """Check what can be checked before anything is loaded; return the variants whose settings are refused."""
    find_text(config.data)
    for task in list_tasks(config).values():
        if task.data is not None and not Path(task.data).expanduser().exists():
            message = f"there is no folder or file {task.data}, which a task names"
            raise DatasetError(message)
    if config.calibration is not None and not Path(config.calibration).expanduser().exists():
        message = f"there is no folder or file {config.calibration}"
        raise DatasetError(message)
    refused: dict[str, str] = {}
    variants = config.list_variants()
    for name, settings in variants.items():
        try:
            config.plan_quantization(settings, "", Path())
        except ConfigError as error:
            refused[name] = str(error)
    if len(refused) == len(variants):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        message = f"no variant can be quantized: {reasons}"
        raise ConfigError(message)
    return refused


def _accepted(config: SuiteConfig, refused: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {name: values for name, values in config.list_variants().items() if name not in refused}


def _find_finished(path: Path, suite: Suite) -> Run | None:
    """Return the finished run of a suite: all that is left to do is to write its files."""
    if not path.is_file():
        return None
    store = Store(path)
    if store.find_unfinished(suite) is not None:
        return None
    same = [run.id for run in store.runs() if (run.source, run.arguments) == (suite.source, suite.arguments)]
    return store.load(same[-1]) if same else None


def _clear(output: Path) -> None:
    for name in (STORE, RESULTS):
        (output / name).unlink(missing_ok=True)
    models = output / MODELS
    if models.is_dir():
        shutil.rmtree(models)


def _summarize(config: SuiteConfig, run: Run, output: Path, refused: dict[str, str]) -> BenchmarkResult:
    rows: list[Measurement] = []
    layers: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    for row in list_measurements(config, run, refused):
        folder = locate(config, output, row.model, row.variant)
        is_there = row.error is None and (config.keep_models or row.is_original)
        rows.append(replace(row, path=str(folder) if is_there else None))
        if row.error is None and not row.is_original:
            layers[f"{row.model}/{row.variant}"] = read_layers(folder)
    result = BenchmarkResult(
        output=output,
        rows=rows,
        config=config.to_dict(),
        layers={name: errors for name, (errors, _) in layers.items() if errors},
        sensitivity={name: found for name, (_, found) in layers.items() if found},
        environment=describe_run(run),
    )
    write_files(result, plots=config.plots)
    if not config.keep_models:
        shutil.rmtree(output / MODELS, ignore_errors=True)
    return result
