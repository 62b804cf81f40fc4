"""Jobs that load a suite and measure a case, in a process of their own."""

import math
import statistics
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efficientai_toolkit.benchmark.case import Case
from efficientai_toolkit.benchmark.config import BenchmarkConfig
from efficientai_toolkit.benchmark.environment import measure_load
from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.benchmark.timing import run_command, time_function
from efficientai_toolkit.exceptions import ConfigError, DependencyError, ToolkitError
from efficientai_toolkit.study.job import Emit, peak_memory

_PEAK = "peak_rss_bytes"
"""Metric by which a command reports its own peak memory."""


def describe(request: dict[str, Any], emit: Emit) -> list[dict[str, Any]]:  # noqa: ARG001
    """Return what is known of the cases of a suite before they run; ``request`` are fields of ``Suite``."""
    return [case.describe() for case in Suite(**request).load()]


def measure(request: dict[str, Any], emit: Emit) -> dict[str, Any]:  # noqa: ARG001
    """Measure a case in this process.

    Parameters
    ----------
    request
        ``suite``, ``case`` (an id) and ``config``.
    emit
        Unused.

    Returns
    -------
    dict
        ``status`` with its ``reason``, or ``metrics`` (a list of values by name) with ``number``, ``memory``,
        ``mlx_memory`` and ``details``.
    """
    start = peak_memory()
    load = measure_load()
    try:
        case = _find(Suite(**request["suite"]), request["case"])
        measured = _measure(case, BenchmarkConfig(**request["config"]), start)
    except (ModuleNotFoundError, DependencyError) as error:
        measured = {"status": "skipped", "reason": " ".join(str(error).split())}
    except Exception as error:  # noqa: BLE001
        # Whatever a case raises becomes the reason of its row.
        details = {"traceback": traceback.format_exc()}
        measured = {"status": "failed", "reason": _describe(error), "details": details}
    return {"load_before": load, "load_after": measure_load(), **measured}


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ToolkitError):
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"


def _find(suite: Suite, name: str) -> Case:
    for case in suite.load():
        if case.id == name:
            return case
    message = f"{suite.source}: yields no case `{name}` any more"
    raise ConfigError(message)


def _measure(case: Case, config: BenchmarkConfig, start: int) -> dict[str, Any]:
    if case.command is not None:
        return {"status": "ok", **_measure_command(case, case.command, config)}
    arguments: tuple[object, ...] = ()
    keywords: Mapping[str, Any] = case.params
    if case.setup is not None:
        arguments, keywords = (case.setup(**case.params),), {}
    mlx: Any = sys.modules.get("mlx.core")
    if mlx is not None:
        mlx.reset_peak_memory()
    if case.run is not None:
        run = case.run
        timing = time_function(lambda: run(*arguments, **keywords), config)
        found: dict[str, Any] = {"metrics": {"seconds": timing.seconds}, "number": timing.number}
    elif case.measure is not None:
        found = {"metrics": _check_metrics(case.measure(*arguments, **keywords))}
    else:
        message = f"the case `{case.id}` has nothing to run"
        raise ConfigError(message)
    # Loaded by now, if the case uses it.
    mlx = sys.modules.get("mlx.core")
    return {
        "status": "ok",
        **found,
        "memory": peak_memory() - start,
        "mlx_memory": None if mlx is None else mlx.get_peak_memory(),
    }


def _check_metrics(metrics: Any) -> dict[str, list[float]]:
    named: Mapping[Any, Any] = metrics if hasattr(metrics, "items") else {}
    found = _numbers(named)
    if not found or len(found) < len(named):
        message = f"`measure` must return numbers by name, not {metrics!r}"
        raise ConfigError(message)
    return {name: [value] for name, value in found.items()}


def _numbers(values: Mapping[Any, Any]) -> dict[str, float]:
    """Return the values that are numbers, scalars of numpy and MLX too."""
    found: dict[str, float] = {}
    for name, value in values.items():
        is_scalar = getattr(value, "shape", None) == () and hasattr(value, "item")
        if type(name) is str and (type(value) in {int, float} or is_scalar):
            found[name] = float(value)
            if not math.isfinite(found[name]):
                message = f"the metric `{name}` is {found[name]}"
                raise ToolkitError(message)
    return found


def _measure_command(case: Case, words: Sequence[str], config: BenchmarkConfig) -> dict[str, Any]:
    first = run_command(words, config.timeout)
    if first.output is not None:
        memory = first.output.pop(_PEAK, first.peak_memory)
        numbers = _numbers(first.output)
        metrics = {name: numbers[name] for name in case.metrics or numbers if name in numbers}
        if not metrics or (case.metrics and len(metrics) < len(case.metrics)):
            expected = ", ".join(case.metrics or ["numbers"])
            message = f"{words[0]} printed an object without {expected}: {first.output}"
            raise ToolkitError(message)
        details = {name: value for name, value in first.output.items() if name not in metrics}
        return {
            "metrics": {name: [value] for name, value in metrics.items()},
            "memory": int(memory),
            "details": details,
        }
    # The first run has filled the caches of the system.
    runs = [run_command(words, config.timeout)]
    while len(runs) < config.repeats or sum(run.seconds for run in runs) < config.min_time:
        runs.append(run_command(words, config.timeout))
    return {
        "metrics": {"seconds": [run.seconds for run in runs]},
        "memory": int(statistics.median(run.peak_memory for run in runs)),
    }
