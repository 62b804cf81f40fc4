"""Compression."""

from dataclasses import asdict
from typing import Any

from efficientai_toolkit.compress import run
from efficientai_toolkit.compress.config import CompressConfig
from efficientai_toolkit.compress.timetable import Progress
from efficientai_toolkit.study.job import Emit


def compress(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Make a model smaller and faster within a budget."""

    def report(progress: Progress) -> None:
        if progress.event is None:
            emit(
                {
                    "event": "progress",
                    "stage": f"{progress.stage} {progress.candidate}",
                    "done": progress.done,
                    "total": progress.total,
                    "seconds_left": progress.seconds_left,
                }
            )

    [settings] = request["configs"]
    result = run.compress(CompressConfig(**settings), on_progress=report, show_progress=False)
    rows = [{name: value for name, value in asdict(row).items() if name != "samples"} for row in result.rows]
    chosen = None if result.choice.row is None else result.choice.row.variant
    return {
        "output": str(result.output),
        "rows": rows,
        "chosen": chosen,
        "meets_budget": result.choice.meets_budget,
        "reason": result.choice.reason,
    }
