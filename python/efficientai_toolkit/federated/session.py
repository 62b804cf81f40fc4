"""Federated fine-tuning of a language model."""

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from efficientai_toolkit._base.files import write_json
from efficientai_toolkit._base.writable import check_writable
from efficientai_toolkit.callbacks.base import AnyCallback
from efficientai_toolkit.callbacks.events import Progress
from efficientai_toolkit.exceptions import ConfigError, TrainingError
from efficientai_toolkit.federated.build import build_rule, build_strategy
from efficientai_toolkit.federated.checkpoint import CHECKPOINT, ServerState, load_state, save_state
from efficientai_toolkit.federated.config import FederatedConfig
from efficientai_toolkit.federated.guard import build_guard
from efficientai_toolkit.federated.plots import draw_rounds
from efficientai_toolkit.federated.result import Comparison, FederatedResult
from efficientai_toolkit.federated.rounds import RoundReport
from efficientai_toolkit.federated.serve import EVENTS, read_events, to_event
from efficientai_toolkit.federated.shares import Shares, write_shares
from efficientai_toolkit.study.folder import check_unused, release
from efficientai_toolkit.study.record import Recorder, read_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from efficientai_toolkit.federated.adapter import AdapterTrainer

REPORT = "federated.json"
"""Report of a run in its output folder."""

SHARES = "shares"
"""Rows of the clients in the output folder."""

_MAY_CHANGE = frozenset(
    {"output", "resume", "overwrite", "rounds", "compare", "port", "timeout", "early_stopping_patience"}
)
"""Settings that a resumed run may have other values of."""


def run(
    config: FederatedConfig | None = None, *, callback: AnyCallback | None = None, **settings: Any
) -> FederatedResult:
    """Fine-tune a model on the rows of many clients, which only send their adapters.

    >>> import efficientai_toolkit as eat
    >>> result = eat.federated.run(clients=8, rounds=4)  # doctest: +SKIP

    Parameters
    ----------
    config
        Configuration; by default 8 clients with unequal shares of the bundled instructions adapt the
        bundled model.
    callback
        Receives the run and all events: a :class:`~efficientai_toolkit.callbacks.Callback` such as
        ``ProgressBar()`` or a :class:`~efficientai_toolkit.trackers.Tracker`, a function, or a list of them.
    **settings
        Fields of :class:`FederatedConfig` that override ``config``.

    Returns
    -------
    FederatedResult

    Raises
    ------
    ConfigError, DatasetError, ModelLoadingError
        If the run cannot start; the message names the setting, file or line at fault.
    DependencyError
        If Flower is not installed.
    TrainingError
        If the output folder holds another run, or no checkpoint to resume.
    """
    config = (config or FederatedConfig()).with_values(settings)
    build_rule(config)
    build_guard(config)
    config = config.with_defaults_filled()
    output = Path(str(config.output))
    try:
        check_unused(
            output, CHECKPOINT, what="a federated run", resume=config.resume, overwrite=config.overwrite
        )
        state = load_state(output) if config.resume else None
        if state is not None:
            _check_same(config, output)
        check_writable(output)
        recorder = Recorder(
            output,
            kind="federated",
            configuration=config.to_dict(),
            data=[Path(str(config.data))],
            resume=config.resume,
            callback=callback,
        )
        with recorder:
            result = _run(config, output, state, recorder)
            recorder.result = result.summary()
    finally:
        release(output)
    return result


def _check_same(config: FederatedConfig, output: Path) -> None:
    former = read_run(output)
    if former is None:
        return
    now = config.to_dict()
    changed = [
        name
        for name in now
        if name not in _MAY_CHANGE and former.configuration.get(name, now[name]) != now[name]
    ]
    if changed:
        name = changed[0]
        message = (
            f"`{name}` is {now[name]!r}, but the run in {output} was begun with "
            f"{former.configuration[name]!r}; resume it with that, or choose another output"
        )
        raise ConfigError(message)


def _run(
    config: FederatedConfig, output: Path, state: ServerState | None, recorder: Recorder
) -> FederatedResult:
    from efficientai_toolkit.federated.adapter import AdapterTrainer

    shares = write_shares(config, output / SHARES)
    with TemporaryDirectory() as folder:
        trainer = AdapterTrainer(config, Path(folder))
        recorder.start()
        initial = trainer.create(shares.everything)
        started = time.perf_counter()
        watch = _Watch(config, output, trainer, shares, recorder)
        run_rounds = _run_in_processes if config.processes else _run_in_process
        arrays, history = run_rounds(config, watch, initial, state, shares)
        seconds = time.perf_counter() - started
        trainer.save(arrays, output)
        comparison = _compare(config, trainer, shares, initial, arrays, recorder=recorder)
    last = history[-1].metrics.get("eval-loss") if history else None
    result = FederatedResult(
        output=output,
        rounds=history,
        stopped_early=len(history) < config.rounds,
        loss=last,
        perplexity=None if last is None else math.exp(last),
        comparison=comparison,
        share_sizes=shares.sizes,
        seconds=seconds,
    )
    write_json(output / REPORT, result.to_dict())
    draw_rounds(output / "rounds.png", result)
    return result


class _Watch:
    """What the server does after each round: evaluates, saves and reports."""

    def __init__(
        self,
        config: FederatedConfig,
        output: Path,
        trainer: "AdapterTrainer",
        shares: Shares,
        recorder: Recorder,
    ) -> None:
        self.trainer = trainer
        self._config = config
        self._output = output
        self._validation = shares.validation
        self._recorder = recorder

    def evaluate(self, _: int, arrays: Any) -> Any:
        """Return the validation loss of the global adapter as metrics, if there are validation rows."""
        from efficientai_toolkit.federated.replies import from_record, to_metrics

        if self._validation is None:
            return None
        return to_metrics({"eval-loss": self.trainer.evaluate(from_record(arrays), self._validation)})

    def save(self, state: ServerState) -> None:
        """Save a checkpoint."""
        save_state(self._output, state)

    def report(self, report: RoundReport) -> None:
        """Tell of a round."""
        self._recorder.on(to_event(report, self._config.rounds))
        metrics = {
            **report.metrics,
            "clients": report.accepted,
            "received_bytes": report.received_bytes,
            "seconds": report.seconds,
        }
        self._recorder.log(report.round, {f"federated/{name}": value for name, value in metrics.items()})


def _run_in_process(
    config: FederatedConfig,
    watch: _Watch,
    initial: "dict[str, NDArray[Any]]",
    state: ServerState | None,
    shares: Shares,
) -> "tuple[dict[str, NDArray[Any]], list[RoundReport]]":
    from efficientai_toolkit.federated.grid import LocalGrid
    from efficientai_toolkit.federated.hostile import build_client
    from efficientai_toolkit.federated.replies import from_record, to_record

    client = build_client(config, watch.trainer, shares)
    grid = LocalGrid(client, config.clients)
    if state is not None:
        grid.restore_states(state.memories)
    strategy = build_strategy(
        config,
        on_round=watch.report,
        save=lambda reached: watch.save(replace(reached, memories=grid.export_states())),
    )
    result = strategy.start(
        grid,
        to_record(initial),
        config.rounds,
        config.timeout,
        evaluate_fn=watch.evaluate,
        resume=state,
    )
    return from_record(result.arrays), strategy.history


def _run_in_processes(
    config: FederatedConfig,
    watch: _Watch,
    initial: "dict[str, NDArray[Any]]",  # noqa: ARG001
    state: ServerState | None,
    shares: Shares,
) -> "tuple[dict[str, NDArray[Any]], list[RoundReport]]":
    from efficientai_toolkit.federated.apps import to_run_config
    from efficientai_toolkit.federated.keys import Keys
    from efficientai_toolkit.federated.processes import Federation, Link
    from efficientai_toolkit.federated.template import write_app

    output = Path(str(config.output)).absolute()
    if state is None:
        for left in (output / CHECKPOINT, output / "app"):
            shutil.rmtree(left, ignore_errors=True)
    # The server of before a resumption may have been killed within a line.
    (output / EVENTS).unlink(missing_ok=True)
    # Nobody may be missing when the first round begins.
    settings = {
        "output": str(output),
        "min_clients": config.clients_per_round or config.clients,
        "keys": None,
    }
    write_app(output / "app", to_run_config(config.with_values(settings)))
    nodes = [
        {"partition-id": number, "num-partitions": config.clients, "data": str(data.absolute())}
        for number, data in enumerate(shares.clients)
    ]
    keys = None if config.keys is None else Keys.in_folder(Path(config.keys).expanduser().absolute())
    followed = 0
    ended = False

    def follow() -> None:
        nonlocal followed, ended
        events, followed = read_events(output / EVENTS, followed)
        for event in events:
            ended = ended or event["event"] == "finished"
            if event["event"] == "round":
                watch.report(load_state(output).history[int(event["round"]) - 1])

    federation = Federation(Link(port=config.port, keys=keys), nodes, output / "flower")
    with federation:
        federation.run(output / "app", follow)
    if not ended:
        message = f"the run on Flower's processes failed; see {output / 'flower' / 'run.log'}"
        raise TrainingError(message)
    reached = load_state(output)
    return reached.arrays, reached.history


def _compare(
    config: FederatedConfig,
    trainer: "AdapterTrainer",
    shares: Shares,
    initial: "dict[str, NDArray[Any]]",
    arrays: "dict[str, NDArray[Any]]",
    *,
    recorder: Recorder,
) -> Comparison | None:
    if shares.test is None:
        return None
    test = shares.test
    # As many passes over the rows as the clients had.
    passes: dict[str, Any] = {"epochs": config.local_epochs * config.rounds}
    if config.local_steps is not None:
        passes = {"iters": config.local_steps * config.rounds}

    def measure(data: Path) -> float:
        trained = trainer.train(initial, data, seed=config.seed, **passes)
        return math.exp(trainer.evaluate(trained.arrays, test))

    central, local = None, list[float]()
    total = 1 + len(shares.clients)
    if config.compare:
        recorder.on(Progress(stage="comparison", done=0, total=total))
        central = measure(shares.everything)
        for number, data in enumerate(shares.clients, 2):
            recorder.on(Progress(stage="comparison", done=number - 1, total=total))
            local.append(measure(data))
    return Comparison(
        before=math.exp(trainer.evaluate(initial, test)),
        federated=math.exp(trainer.evaluate(arrays, test)),
        central=central,
        local=local,
    )
