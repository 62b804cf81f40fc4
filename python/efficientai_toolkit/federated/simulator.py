"""Rounds on the clock of a simulated network, which costs no time: synchronous, FedBuff and FedAsync.

Nguyen et al. 2022, *Federated Learning with Buffered Asynchronous Aggregation*, arXiv:2106.06639.
Xie et al. 2019, *Asynchronous Federated Optimization*, arXiv:1903.03934.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.rules import Rule
from efficientai_toolkit.federated.server_step import ServerStep
from efficientai_toolkit.federated.staleness import Staleness, compute_staleness_weight, mix_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]
Train = Callable[[Arrays, int, int], "tuple[Arrays, float]"]
"""Trains from arrays as client, for the n-th time; returns its arrays and number of examples."""

Mode = Literal["synchronous", "fedbuff", "fedasync"]
"""When the server takes updates in: all of a round, as many as a buffer holds, or each at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A client's machine and connection."""

    compute: float = 1.0
    """Seconds of a training."""
    bandwidth: float = math.inf
    """Bytes per second."""
    latency: float = 0.0
    """Seconds of a message beside its bytes."""
    loss: float = 0.0
    """Probability that an update is lost."""
    trace: tuple[tuple[float, float], ...] = ()
    """Times at which it is there, in seconds from the start; always, if empty."""

    def seconds(self, size: int) -> float:
        """Return the time from sending a model of ``size`` bytes to receiving its update."""
        return 2 * (self.latency + size / self.bandwidth) + self.compute

    def next_start(self, now: float) -> float:
        """Return when it can begin next; infinity if it does not come back."""
        if not self.trace:
            return now
        return next((max(now, begin) for begin, end in self.trace if end > now), math.inf)


def draw_devices(
    clients: int,
    *,
    spread: float = 1.0,
    slow: int = 0,
    slowness: float = 10.0,
    loss: float = 0.0,
    seed: int = 0,
) -> list[Device]:
    """Return machines whose times are lognormal, with the median 1 and the deviation ``spread``.

    The last ``slow`` ones take ``slowness`` times as long.
    """
    times = np.random.default_rng(seed).lognormal(0.0, spread, clients)
    times[clients - slow :] *= slowness
    return [Device(compute=float(time), loss=loss) for time in times]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Moment(Displayed):
    """The model after the server changed it."""

    seconds: float
    """Time of the clock."""
    version: int
    """Number of changes so far."""
    updates: int
    """Number of updates that were taken in so far."""
    metrics: dict[str, float]
    """What the evaluation says."""
    staleness: float = 0.0
    """Mean number of versions that the updates were behind."""


@dataclass(kw_only=True, slots=True)
class Simulator:
    """A server and clients on a simulated clock.

    Parameters
    ----------
    train
        Trains as a client.
    evaluate
        Returns metrics of the global arrays.
    devices
        Machine of each client.
    rule, step
        How updates become one, and how the server applies it.
    deadline
        Seconds after which a synchronous round ends without the others.
    buffer_size
        Updates that FedBuff waits for.
    rate
        Share of a fresh update in FedAsync.
    staleness
        How the weight of an update falls with its age.
    seed
        Random seed of lost messages and of selections.
    """

    train: Train
    evaluate: Callable[[Arrays], dict[str, float]]
    devices: Sequence[Device]
    rule: Rule = field(default_factory=Rule)
    step: ServerStep = field(default_factory=ServerStep)
    deadline: float = math.inf
    buffer_size: int = 4
    rate: float = 0.6
    staleness: Staleness = "polynomial"
    seed: int = 0

    def run(
        self,
        arrays: Arrays,
        mode: Mode,
        *,
        until: Callable[[Moment], bool],
        clients_per_round: int | None = None,
    ) -> list[Moment]:
        """Run until a moment satisfies ``until``, or no client comes back.

        Raises
        ------
        ConfigError
            If a buffer is empty or larger than the number of clients, or these are too few for the rule.
        """
        if mode == "synchronous":
            return self._rounds(arrays, until, clients_per_round or len(self.devices))
        if not 1 <= self.buffer_size <= len(self.devices):
            message = (
                f"`buffer_size` is {self.buffer_size}, expected 1 to {len(self.devices)}, one per client"
            )
            raise ConfigError(message)
        return self._asynchronous(arrays, until, 1 if mode == "fedasync" else self.buffer_size, mode=mode)

    def _rounds(self, arrays: Arrays, until: Callable[[Moment], bool], each: int) -> list[Moment]:
        self.rule.check(min(each, len(self.devices)))
        random = np.random.default_rng(self.seed)
        moments: list[Moment] = []
        now, taken = 0.0, 0
        for version in count(1):
            drawn: list[int] = random.permutation(len(self.devices))[:each].tolist()
            chosen = sorted(drawn)
            starts = {client: self.devices[client].next_start(now) for client in chosen}
            ends = {
                client: start + self.devices[client].seconds(_size(arrays))
                for client, start in starts.items()
            }
            combiner = self.rule.start()
            # A server without a deadline waits for the slowest; a lost update it misses for as long.
            limit = min(max(ends.values()), now + self.deadline)
            if not math.isfinite(limit):
                return moments
            replies = 0
            for client in chosen:
                if ends[client] <= limit and random.random() >= self.devices[client].loss:
                    trained, examples = self.train(arrays, client, version)
                    combiner.add(_subtract(trained, arrays), examples, client)
                    replies += 1
            now = limit
            if replies and self.rule.refuse(replies) is None:
                arrays = self.step.apply(arrays, combiner.finish())
            taken += replies
            moments.append(Moment(seconds=now, version=version, updates=taken, metrics=self.evaluate(arrays)))
            if until(moments[-1]):
                break
        return moments

    def _asynchronous(
        self, arrays: Arrays, until: Callable[[Moment], bool], size: int, *, mode: Mode
    ) -> list[Moment]:
        self.rule.check(size)
        random = np.random.default_rng(self.seed)
        order = count()
        # When it ends, a number that breaks ties, the client, the model it began with and its version.
        running: list[tuple[float, int, int, Arrays, int]] = []
        trainings = [0] * len(self.devices)

        def begin(client: int, now: float) -> None:
            start = self.devices[client].next_start(now)
            if math.isfinite(start):
                end = start + self.devices[client].seconds(_size(arrays))
                heapq.heappush(running, (end, next(order), client, arrays, version))

        moments: list[Moment] = []
        version, taken = 0, 0
        combiner, ages = self.rule.start(), list[int]()
        for client in range(len(self.devices)):
            begin(client, 0.0)
        while running:
            now, _, client, base, since = heapq.heappop(running)
            if random.random() >= self.devices[client].loss:
                trainings[client] += 1
                trained, examples = self.train(base, client, trainings[client])
                age = version - since
                factor = (
                    mix_rate(self.rate, age, self.staleness)
                    if mode == "fedasync"
                    else compute_staleness_weight(age, self.staleness)
                )
                combiner.add(
                    {
                        # FedAsync mixes models, FedBuff adds differences.
                        name: factor * (trained[name] - (arrays if mode == "fedasync" else base)[name])
                        for name in arrays
                    },
                    1.0 if mode == "fedasync" else examples,
                    client,
                )
                ages.append(age)
                taken += 1
            if len(ages) == size:
                arrays = self.step.apply(arrays, combiner.finish())
                version += 1
                moments.append(
                    Moment(
                        seconds=now,
                        version=version,
                        updates=taken,
                        metrics=self.evaluate(arrays),
                        staleness=sum(ages) / len(ages),
                    )
                )
                combiner, ages = self.rule.start(), []
                if until(moments[-1]):
                    break
            begin(client, now)
        return moments


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def _subtract(arrays: Arrays, base: Arrays) -> Arrays:
    return {name: arrays[name] - base[name] for name in base}
