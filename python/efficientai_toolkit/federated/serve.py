"""The rounds of a server whose clients are elsewhere."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.callbacks.events import event_to_json
from efficientai_toolkit.callbacks.rounds import Round
from efficientai_toolkit.callbacks.training import Finished
from efficientai_toolkit.data.rows import find_validation_file
from efficientai_toolkit.federated.adapter import AdapterTrainer
from efficientai_toolkit.federated.build import build_strategy
from efficientai_toolkit.federated.checkpoint import CHECKPOINT, load_state, save_state
from efficientai_toolkit.federated.config import FederatedConfig
from efficientai_toolkit.federated.rounds import RoundReport
from efficientai_toolkit.study.folder import check_unused

if TYPE_CHECKING:
    from flwr.serverapp import Grid

EVENTS = "events.jsonl"
"""Events of the server in the output folder."""


def run_rounds(grid: "Grid", config: FederatedConfig) -> list[RoundReport]:
    """Run all rounds of a configuration on a grid and save the adapter in its output folder.

    Raises
    ------
    ToolkitError
        If the configuration or the output folder cannot be used.
    """
    from efficientai_toolkit.federated.replies import from_record, to_metrics, to_record

    config = config.with_defaults_filled()
    output = Path(str(config.output))
    check_unused(output, CHECKPOINT, what="a federated run", resume=config.resume, overwrite=config.overwrite)
    state = load_state(output) if config.resume else None
    output.mkdir(parents=True, exist_ok=True)
    data = Path(str(config.data))
    validation = find_validation_file(data) if data.is_dir() else None
    with TemporaryDirectory() as folder, (output / EVENTS).open("a", encoding="utf-8") as events:
        trainer = AdapterTrainer(config, Path(folder))
        initial = trainer.create(data)

        def evaluate(_: int, arrays: Any) -> Any:
            if validation is None:
                return None
            return to_metrics({"eval-loss": trainer.evaluate(from_record(arrays), validation)})

        def report(found: RoundReport) -> None:
            events.write(event_to_json(to_event(found, config.rounds)) + "\n")
            events.flush()

        strategy = build_strategy(config, on_round=report, save=lambda reached: save_state(output, reached))
        result = strategy.start(
            grid, to_record(initial), config.rounds, config.timeout, evaluate_fn=evaluate, resume=state
        )
        trainer.save(from_record(result.arrays), output)
        events.write(event_to_json(Finished(step=strategy.history[-1].round, path=str(output))) + "\n")
    return strategy.history


def to_event(report: RoundReport, rounds: int) -> Round:
    """Return the event of a round."""
    loss = report.metrics.get("eval-loss")
    return Round(
        round=report.round,
        rounds=rounds,
        clients=report.accepted,
        rejected=len(report.clients) - report.accepted,
        train_loss=report.metrics.get("loss"),
        loss=loss,
        perplexity=None if loss is None else math.exp(loss),
        seconds=report.seconds,
    )


def read_events(path: Path, start: int) -> "tuple[list[dict[str, Any]], int]":
    """Return the whole lines of a file of events from an offset on, and the offset behind them."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            text = file.read()
    except FileNotFoundError:
        return [], start
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)
