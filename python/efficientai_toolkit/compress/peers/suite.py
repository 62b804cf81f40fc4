"""Cases of a benchmark of runtimes, which the toolkit's runner measures, each in its own process."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from efficientai_toolkit.benchmark.case import Case
from efficientai_toolkit.compress.peers.runtimes import RUNTIMES
from efficientai_toolkit.compress.peers.work import Work


def cases(work: Mapping[str, Any], runtimes: list[str], rounds: int) -> Iterator[Case]:
    """Yield the cases: every runtime in rounds, every second one backwards.

    Parameters
    ----------
    work
        Fields of :class:`Work`.
    runtimes
        Names of :data:`RUNTIMES`.
    rounds
        Number of rounds.
    """
    settings = Work(**work)
    for number in range(rounds):
        # A machine that heats up hurts all alike.
        for name in runtimes if number % 2 == 0 else runtimes[::-1]:
            yield Case(
                name="runtime",
                params={"runtime": name, "round": number},
                measure=partial(_measure, settings),
                higher_is_better=["prefill", "decode"],
            )


def _measure(work: Work, *, runtime: str, round: int) -> dict[str, float]:  # noqa: A002, ARG001
    return RUNTIMES[runtime].measure(work)
