"""A strategy for Flower's ``ServerApp``: whatever clients train, in PyTorch or anything else."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.exceptions import TrainingError
from efficientai_toolkit.federated import flower
from efficientai_toolkit.federated.checkpoint import ServerState
from efficientai_toolkit.federated.convergence import Convergence
from efficientai_toolkit.federated.intake import Intake
from efficientai_toolkit.federated.privacy.budget import Budget
from efficientai_toolkit.federated.replies import Arrays, from_record, to_metrics, to_record
from efficientai_toolkit.federated.rounds import RoundReport
from efficientai_toolkit.federated.selection import Selector
from efficientai_toolkit.federated.server_step import ServerStep

try:
    flower.silence()
    from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Result, Strategy
except ImportError as error:
    raise flower.missing(error) from error

if TYPE_CHECKING:
    from efficientai_toolkit.federated.guard import PrivacyGuard
    from efficientai_toolkit.federated.rules import Rule

EvaluateFunction = Callable[[int, ArrayRecord], MetricRecord | None]
"""Evaluates the global arrays after a round, or before the first one (round 0)."""

_PAUSE = 0.2
"""Seconds between two looks for replies."""


class FederatedStrategy(Strategy):
    """Strategy of Flower's message API with this package's aggregation.

    Replies are checked and folded in as they come; the mean holds one at a time, in 64 bits. Replies with
    arrays of another model, damaged ones and ones that are not finite are left out, each with its reason in
    :attr:`history`.

    Parameters
    ----------
    rule
        How updates become one; a :class:`~efficientai_toolkit.federated.Rule`. By default the mean, weighted
        by the number of examples.
    step
        How the server applies it: :class:`~efficientai_toolkit.federated.ServerStep`.
    clients_per_round
        Number of clients in a round, by default all.
    min_clients
        Number of nodes to wait for, and of updates below which a round changes nothing.
    over_selection
        Share of further clients that are asked; the round ends when enough have replied.
    deadline
        Seconds after which a round ends with those that have replied.
    selector
        Which clients are asked.
    convergence
        When to stop early.
    guard
        Differential privacy; the run ends before the round that would exceed its budget.
    weighted_by
        Metric of replies with their number of examples.
    max_examples
        Largest number of examples that a client may claim.
    on_round
        Called after each round.
    save
        Called after each round with all that is needed to go on from there.
    """

    def __init__(
        self,
        rule: "Rule | None" = None,
        step: ServerStep | None = None,
        *,
        clients_per_round: int | None = None,
        min_clients: int = 1,
        over_selection: float = 0.0,
        deadline: float | None = None,
        selector: Selector | None = None,
        convergence: Convergence | None = None,
        guard: "PrivacyGuard | None" = None,
        weighted_by: str = "num-examples",
        max_examples: float | None = None,
        on_round: Callable[[RoundReport], object] | None = None,
        save: Callable[[ServerState], object] | None = None,
    ) -> None:
        from efficientai_toolkit.federated.rules import Rule

        self.rule = rule or Rule()
        self.step = step or ServerStep()
        self.clients_per_round = clients_per_round
        self.min_clients = min_clients
        self.over_selection = over_selection
        self.deadline = deadline
        self.selector = selector or Selector()
        self.convergence = convergence or Convergence()
        self.guard = guard
        self.weighted_by = weighted_by
        self.max_examples = max_examples
        self.on_round = on_round
        self.save = save
        self.history: list[RoundReport] = []
        """Reports of all rounds."""
        self._global: Arrays = {}
        self._selected: list[int] = []
        self._wanted = 0
        self._started = 0.0

    def summary(self) -> None:
        """Log nothing: :attr:`history` tells what happened."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Select clients and return their messages."""
        self._global = from_record(arrays)
        nodes = self._wait_for_nodes(grid)
        self._wanted = min(self.clients_per_round or len(nodes), len(nodes))
        asked = min(len(nodes), round(self._wanted * (1 + self.over_selection)))
        self.rule.check(asked)
        self._selected = self.selector.select(nodes, asked, server_round)
        self._started = time.monotonic()
        settings = ConfigRecord({**config, "server-round": server_round})
        content = RecordDict({"arrays": arrays, "config": settings})
        return [
            Message(content, node, MessageType.TRAIN, group_id=str(server_round)) for node in self._selected
        ]

    def _wait_for_nodes(self, grid: Grid) -> list[int]:
        while len(nodes := list(grid.get_node_ids())) < max(self.min_clients, 1):
            time.sleep(_PAUSE)
        return nodes

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies in, and return the new global arrays and mean metrics, if there are enough."""
        intake = Intake(
            self.rule,
            self._global,
            round_number=server_round,
            selected=self._selected,
            weighted_by=self.weighted_by,
            max_examples=self.max_examples,
            combiner=None if self.guard is None else self.guard.start(),
        )
        for message in replies:
            intake.take(message, seconds=time.monotonic() - self._started)
        for client in intake.reports:
            if client.accepted:
                self.selector.observe(
                    client.node,
                    round_number=server_round,
                    loss=client.loss,
                    examples=client.examples,
                    seconds=client.seconds,
                )
        note = None
        if intake.accepted < self.min_clients:
            note = f"{intake.accepted} updates, and `min_clients` is {self.min_clients}"
        change, reason = (None, note) if note else intake.combine()
        if change is not None:
            self._global = self.step.apply(self._global, change)
        self.history.append(
            RoundReport(
                round=server_round,
                selected=self._selected,
                clients=intake.finish(),
                applied=change is not None,
                seconds=time.monotonic() - self._started,
                received_bytes=intake.received_bytes,
                metrics=intake.metrics(),
                note=reason,
            )
        )
        if change is None:
            return None, None
        return to_record(self._global), to_metrics(intake.metrics())

    def configure_evaluate(
        self,
        server_round: int,  # noqa: ARG002
        arrays: ArrayRecord,  # noqa: ARG002
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Ask no client: the server evaluates."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing: no client was asked."""

    def start(  # noqa: PLR0917
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,  # noqa: ARG002
        evaluate_fn: EvaluateFunction | None = None,
        *,
        resume: ServerState | None = None,
    ) -> Result:
        """Run all rounds.

        Parameters
        ----------
        grid, initial_arrays, num_rounds, train_config, evaluate_fn
            As in Flower's strategies.
        timeout
            Seconds that a round waits for replies, if there is no ``deadline``.
        evaluate_config
            Unused, as clients do not evaluate.
        resume
            State to go on from; ``initial_arrays`` are then ignored.

        Returns
        -------
        flwr.serverapp.strategy.Result

        Raises
        ------
        ConfigError
            If there are too few nodes for the rule.
        TrainingError
            If a state of another model is to be continued.
        """
        result = Result(arrays=initial_arrays)
        first = 1
        if resume is not None:
            result.arrays, first = self._restore(resume, initial_arrays), resume.round + 1
        elif evaluate_fn is not None:
            self._evaluate(0, result, evaluate_fn)
        for number in range(first, num_rounds + 1):
            if self.guard is not None and not self.guard.spend():
                break
            messages = self.configure_train(number, result.arrays, train_config or ConfigRecord(), grid)
            waits = timeout if self.deadline is None else self.deadline
            arrays, metrics = self.aggregate_train(number, self._pull(grid, messages, waits))
            if arrays is not None and metrics is not None:
                result.arrays = arrays
                result.train_metrics_clientapp[number] = metrics
            if evaluate_fn is not None:
                self._evaluate(number, result, evaluate_fn)
            if self._finish_round(number, result):
                break
        return result

    def _finish_round(self, number: int, result: Result) -> bool:
        """Save and report a round; return whether it is the last."""
        report = self.history[-1]
        report.metrics.update(_scalars(result.evaluate_metrics_serverapp.get(number)))
        if self.guard is not None and self.guard.budget is not None:
            report.metrics["epsilon"] = self.guard.budget.spent
        loss = report.metrics.get("eval-loss", report.metrics.get("loss"))
        stops = self.convergence.observe(number, loss)
        if self.save is not None:
            self.save(self.state())
        if self.on_round is not None:
            self.on_round(report)
        return stops

    def _pull(self, grid: Grid, messages: Iterable[Message], timeout: float) -> Iterator[Message]:
        """Yield replies as they come, until there are enough or the time is over."""
        # In the order of the clients, so that sums are the same in every process.
        waiting = dict.fromkeys(grid.push_messages(messages))
        end = time.monotonic() + timeout
        received = 0
        while waiting:
            for reply in grid.pull_messages(list(waiting)):
                waiting.pop(reply.metadata.reply_to_message_id, None)
                received += not reply.has_error()
                yield reply
                if received >= self._wanted and self.over_selection:
                    return
                if time.monotonic() > end:
                    return
            if time.monotonic() > end:
                return
            if waiting:
                time.sleep(_PAUSE)

    def _evaluate(self, number: int, result: Result, evaluate: EvaluateFunction) -> None:
        metrics = evaluate(number, result.arrays)
        if metrics is not None:
            result.evaluate_metrics_serverapp[number] = metrics

    def state(self) -> ServerState:
        """Return all that is needed to go on after the last round."""
        return ServerState(
            round=self.history[-1].round if self.history else 0,
            arrays=self._global,
            step=self.step.state(),
            clients=self.selector.to_dict(),
            best=(self.convergence.best, self.convergence.best_round),
            history=self.history,
            privacy=None if self.guard is None or self.guard.budget is None else self.guard.budget.state(),
        )

    def _restore(self, state: ServerState, initial: ArrayRecord) -> ArrayRecord:
        expected = from_record(initial)
        if _shapes(state.arrays) != _shapes(expected):
            message = "the checkpoint is one of another model; choose another output, or set `overwrite`"
            raise TrainingError(message)
        self._global = state.arrays
        self.step.restore(state.step)
        self.selector.restore(state.clients)
        self.convergence.best, self.convergence.best_round = state.best
        self.history = list(state.history)
        if self.guard is not None and self.guard.budget is not None and state.privacy is not None:
            self.guard.budget = Budget.from_state(state.privacy)
        return to_record(state.arrays)


def _shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(array) for name, array in arrays.items()}


def _scalars(metrics: MetricRecord | None) -> dict[str, float]:
    if metrics is None:
        return {}
    return {str(name): float(value) for name, value in metrics.items() if isinstance(value, int | float)}
