"""The search: which candidates are built and measured, and which are given up."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.compress.candidates import NONE, Candidate, order_candidates
from efficientai_toolkit.compress.config import CompressConfig
from efficientai_toolkit.compress.measurement import (
    CandidateRow,
    describe_candidate,
    read_quality,
    read_speeds,
)
from efficientai_toolkit.compress.timetable import Timetable
from efficientai_toolkit.compress.workshop import StageError, Workshop
from efficientai_toolkit.quantize.suite.measurement import find_front

ORIGINAL = Candidate(pruning=NONE, recovery=NONE, quantization=NONE)

_BEYOND_RECOVERY = 10.0
"""Increase of the perplexity by pruning that no training of a few steps wins back."""

_SLACK = 1.02
"""Sizes are predicted within this factor."""

_FEWEST_TIMED = 3
"""Candidates that are timed even if the loss of all is too high."""


class Search:
    """Tries candidates in order.

    Parameters
    ----------
    config
        Configuration with all paths filled in.
    workshop
        Builds and measures.
    timetable
        Told what is planned.
    model
        Short name of the model.
    """

    def __init__(self, config: CompressConfig, workshop: Workshop, timetable: Timetable, model: str) -> None:
        self._config = config
        self._workshop = workshop
        self._timetable = timetable
        self._model = model
        self._rows: dict[Candidate, CandidateRow] = {}
        self._screened: set[Candidate] = set()
        self._reference: dict[str, Any] = {}
        self._tried = 0
        self._deadline = None if config.timeout_minutes is None else monotonic() + 60 * config.timeout_minutes

    def run(self) -> list[CandidateRow]:
        """Return a row for the original and for every candidate, in the order of the trials.

        Raises
        ------
        StageError
            If the original cannot be measured.
        """
        ordered = order_candidates(self._config.list_candidates(), self._workshop.original)
        limit = self._workshop.size_limit
        within = [one for one in ordered if limit is None or self._size(one) <= limit * _SLACK]
        larger = sorted((one for one in ordered if one not in within), key=self._size)
        self._timetable.plan(["quality", *self._list_stages(within)])
        self._reference = self._workshop.measure_quality(ORIGINAL, partial(self._workshop.build, ORIGINAL))
        self._rows[ORIGINAL] = describe_candidate(
            ORIGINAL, self._model, **read_quality(self._reference, self._reference)
        )
        for place, candidate in enumerate(within):
            self._timetable.plan(self._list_stages(within[place:]))
            self._try(candidate)
        self._try_larger(larger)
        self._measure_speeds()
        rows = list(self._rows.values())
        front = {id(row) for row in find_front([row for row in rows if row.is_measured])}
        return [replace(row, on_front=id(row) in front) for row in rows]

    def _size(self, candidate: Candidate) -> int:
        return self._workshop.predict_size(candidate)

    def _is_good(self, row: CandidateRow) -> bool:
        loss = row.perplexity_increase
        return row.is_measured and loss is not None and loss <= self._config.largest_loss

    def _try_larger(self, candidates: Sequence[Candidate]) -> None:
        """Try candidates above the size of the budget from the smallest on, until one is good enough.

        They are of interest only if none within the budget is.
        """
        limit = self._workshop.size_limit or 0
        for place, candidate in enumerate(candidates):
            found = next(
                (row for one, row in self._rows.items() if one != ORIGINAL and self._is_good(row)), None
            )
            if found is not None:
                size = f"its size, about {format_size(self._size(candidate))}, is known in advance"
                is_within = (found.size_bytes or 0) <= limit
                reason = (
                    f"above the {format_size(limit)} of the budget" if is_within else "larger than needed"
                )
                self._give_up(candidate, f"{size}: {reason}, as {found.variant} is within the loss")
                continue
            self._timetable.plan(self._list_stages(candidates[place : place + 1]))
            self._try(candidate)

    def _try(self, candidate: Candidate) -> None:
        if self._config.candidates is not None and self._tried >= self._config.candidates:
            self._give_up(candidate, "not tried: the number of candidates is reached")
            return
        if self._deadline is not None and monotonic() > self._deadline:
            self._give_up(candidate, "not tried: the time is up")
            return
        try:
            reason = self._workshop.find_reason_against(candidate) or self._pass_gates(candidate)
            if reason is not None:
                self._give_up(candidate, reason)
                return
            self._tried += 1
            quality = self._workshop.measure_quality(candidate, partial(self._workshop.build, candidate))
        except StageError as error:
            self._rows[candidate] = describe_candidate(candidate, self._model, error=str(error))
            return
        self._rows[candidate] = describe_candidate(
            candidate, self._model, **read_quality(quality, self._reference)
        )

    def _give_up(self, candidate: Candidate, reason: str) -> None:
        self._rows[candidate] = describe_candidate(candidate, self._model, given_up=reason)

    def _pass_gates(self, candidate: Candidate) -> str | None:
        """Return why nothing that builds on the pruned, or trained, model is worth it."""
        if candidate.pruning == NONE:
            return None
        hopeless = self._config.largest_loss * self._config.stop_factor
        if candidate.recovery == NONE:
            return self._pass(candidate.dense, hopeless)
        return self._pass(candidate.pruned, max(hopeless, _BEYOND_RECOVERY)) or self._pass(
            candidate.dense, hopeless
        )

    def _pass(self, dense: Candidate, most: float) -> str | None:
        self._screened.add(dense)
        screened = self._workshop.screen(dense, partial(self._workshop.build, dense))
        loss = screened["perplexity"] / screened["reference_perplexity"] - 1
        return f"{dense.name} alone has a loss of {loss:+.1%}, over {most:.0%}" if loss > most else None

    def _measure_speeds(self) -> None:
        """Time the original and the candidates in rounds, every second one backwards."""
        timed = self._list_timed()
        rounds = [
            [ORIGINAL, *timed] if number % 2 == 0 else [*timed[::-1], ORIGINAL]
            for number in range(self._config.rounds)
        ]
        self._timetable.plan(["speed"] * sum(map(len, rounds)))
        speeds: dict[Candidate, list[dict[str, float]]] = {}
        for number, turn in enumerate(rounds):
            for candidate in turn:
                try:
                    found = self._workshop.measure_speed(
                        candidate, partial(self._workshop.build, candidate), number
                    )
                except StageError as error:
                    if candidate == ORIGINAL:
                        raise
                    self._rows[candidate] = replace(self._rows[candidate], error=str(error))
                    continue
                speeds.setdefault(candidate, []).append(found)
        for candidate, samples in speeds.items():
            row = self._rows[candidate]
            if row.error is None:
                self._rows[candidate] = replace(row, **read_speeds(samples, speeds[ORIGINAL]))

    def _list_timed(self) -> list[Candidate]:
        built = [
            (row.perplexity_increase or 0.0, place, candidate)
            for place, (candidate, row) in enumerate(self._rows.items())
            if candidate != ORIGINAL and row.is_measured
        ]
        most = self._config.largest_loss * self._config.stop_factor
        kept = {candidate for _, _, candidate in sorted(built)[:_FEWEST_TIMED]} | {
            candidate for loss, _, candidate in built if loss <= most
        }
        for loss, _, candidate in built:
            if candidate not in kept:
                reason = f"not timed: its loss of {loss:+.1%} is over {most:.0%}"
                self._rows[candidate] = replace(self._rows[candidate], given_up=reason)
        return [candidate for _, _, candidate in built if candidate in kept]

    def _list_stages(self, candidates: Sequence[Candidate]) -> list[str]:
        """Return the stages of candidates that are still to come, as far as is known by now."""
        stages: list[str] = []
        built: set[Candidate] = set()
        for candidate in candidates:
            if candidate.pruning != NONE and candidate.pruned not in built | self._screened:
                stages += ["prune", "quality"]
                built.add(candidate.pruned)
            if candidate.recovery != NONE and candidate.dense not in built | self._screened:
                stages += ["recover", "quality"]
                built.add(candidate.dense)
            stages += ["quality"] if candidate.quantization == NONE else ["quantize", "quality"]
        timed = 1 + len(candidates) + sum(row.is_measured for row in self._rows.values())
        return stages + ["speed"] * timed * self._config.rounds
