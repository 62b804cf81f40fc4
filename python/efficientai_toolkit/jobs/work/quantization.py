"""Quantization."""

from dataclasses import asdict
from typing import Any

from efficientai_toolkit.benchmark.runner import Progress
from efficientai_toolkit.jobs.work.reporting import report_to
from efficientai_toolkit.quantize import run, subset
from efficientai_toolkit.quantize.config import QuantizeConfig
from efficientai_toolkit.quantize.subset import SubsetConfig
from efficientai_toolkit.quantize.suite import run as suite
from efficientai_toolkit.quantize.suite.config import SuiteConfig
from efficientai_toolkit.study.job import Emit


def quantize(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Quantize a model."""
    [settings] = request["configs"]
    result = run.quantize(QuantizeConfig(**settings), callback=report_to(emit), show_progress=False)
    return asdict(result) | {"output": str(result.output)}


def select(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Choose rows that stand for all."""
    [settings] = request["configs"]
    result = subset.select_subset(SubsetConfig(**settings), callback=report_to(emit), show_progress=False)
    return asdict(result) | {"output": str(result.output)}


def benchmark(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Measure quantized variants."""

    def report(progress: Progress) -> None:
        reason = None if progress.result is None else progress.result.reason
        emit(
            {
                "event": "progress",
                "stage": progress.case,
                "done": progress.done,
                "total": progress.total,
                "reason": reason,
            }
        )

    [settings] = request["configs"]
    result = suite.benchmark(SuiteConfig(**settings), on_progress=report)
    rows = [{name: value for name, value in asdict(row).items() if name != "samples"} for row in result.rows]
    return {"output": str(result.output), "rows": rows}
