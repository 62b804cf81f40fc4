"""From a run and a list of methods to a table and a recommendation."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import write_text
from efficientai_toolkit.callbacks.events import Event, parse_event
from efficientai_toolkit.exceptions import DatasetError, TrainingError
from efficientai_toolkit.lora.comparison.config import ComparisonConfig
from efficientai_toolkit.lora.comparison.measurement import Measurement
from efficientai_toolkit.lora.config import RUNS, TrainingConfig, new_run
from efficientai_toolkit.study.recommend import Recommendation, recommend
from efficientai_toolkit.study.table import write_csv

REPORT = "comparison.json"
_RESULT = "result.json"
_REQUEST = "request.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What a comparison found."""

    output: Path
    """Folder with ``comparison.json``, ``.csv`` and ``.png``, and a folder per method."""
    rows: list[Measurement]
    """In the order of ``methods``."""
    recommendation: Recommendation


def compare(
    training: TrainingConfig | None = None,
    config: ComparisonConfig | None = None,
    *,
    on_event: Callable[[str, Event], object] | None = None,
    on_result: Callable[[Measurement], object] | None = None,
    **overrides: Any,
) -> Comparison:
    """Fine-tune one model in several ways, and say which one to take.

    Each method trains in a process of its own, on the same rows in the same order, for the same steps.

    Parameters
    ----------
    training
        The run. ``output`` is the folder of the comparison; ``resume`` keeps the methods that are done there,
        ``overwrite`` replaces them.
    config
        What to compare.
    on_event
        Receives the name of the method and each event of its run.
    on_result
        Receives each row when it is there.
    **overrides
        Fields of :class:`ComparisonConfig` that win over ``config``.

    Returns
    -------
    Comparison

    Raises
    ------
    ConfigError
        A setting is impossible; the key is named.
    DatasetError
        There is no data, or nothing to validate on.
    TrainingError
        The folder holds another comparison.
    """
    config = (config or ComparisonConfig()).with_values(overrides)
    config.check()
    if config.plots:
        require("matplotlib", extra="plots", purpose="`plots` (switch it off, or install it)")
    training = training or TrainingConfig()
    if training.output is None and not training.resume:
        training = replace(training, output=str(new_run(Path(RUNS), "comparison")))
    base = training.with_defaults_filled()
    output = Path(str(base.output))
    if (output / REPORT).exists() and not (base.resume or base.overwrite):
        message = f"{output} holds a comparison; choose another output, or give resume or overwrite"
        raise TrainingError(message)
    runs = config.runs(base)
    output.mkdir(parents=True, exist_ok=True)
    rows: list[Measurement] = []
    for method, settings in runs.items():
        run = replace(settings, output=str(output / method), resume=False, overwrite=True)
        rows.append(_row(method, run, on_event, resume=base.resume))
        if on_result is not None:
            on_result(rows[-1])
    comparison = Comparison(output=output, rows=rows, recommendation=recommend(rows, config))
    write_csv(output / "comparison.csv", rows)
    write_text(output / REPORT, json.dumps(asdict(comparison), indent=2, default=str) + "\n")
    if config.plots and any(row.error is None for row in rows):
        from efficientai_toolkit.lora.comparison.plots import draw

        draw(output / "comparison.png", rows)
    return comparison


def _row(
    method: str, run: TrainingConfig, on_event: Callable[[str, Event], object] | None, *, resume: bool
) -> Measurement:
    folder = Path(str(run.output))
    result = folder / _RESULT
    request = {"method": method, "config": run.to_dict()}
    if resume and result.exists():
        stored = json.loads(result.read_text(encoding="utf-8"))
        if stored["request"] == request:
            return Measurement(**stored["measurement"])
    result.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _REQUEST, json.dumps(request))
    outcome = _in_its_own_process(method, folder / _REQUEST, on_event)
    if outcome.error is None and outcome.loss_after is None:
        message = f"{run.data}: there are no validation rows to compare methods on; give at least two rows"
        raise DatasetError(message)
    write_text(result, json.dumps({"request": request, "measurement": asdict(outcome)}))
    return outcome


def _in_its_own_process(
    method: str, request: Path, on_event: Callable[[str, Event], object] | None
) -> Measurement:
    command = [sys.executable, "-m", "efficientai_toolkit.study.job", str(request)]
    outcome: Measurement | None = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            for line in process.stdout or ():
                values = json.loads(line)
                if values["event"] == "result":
                    outcome = Measurement(**{k: v for k, v in values.items() if k != "event"})
                elif values["event"] == "error":
                    outcome = Measurement(method=method, error=values["message"])
                elif on_event is not None:
                    on_event(method, parse_event(line))
        except BaseException:
            process.terminate()
            raise
    if outcome is None:
        reason = f"its process ended with code {process.returncode}"
        if process.returncode < 0:
            reason = f"its process was killed by signal {-process.returncode}, perhaps for lack of memory"
        outcome = Measurement(method=method, error=reason)
    return outcome
