"""Short runs that decide on ranks: which are run how long, what they foretell, and what is chosen."""

from __future__ import annotations

import math

import pytest

from efficientai_toolkit.exceptions import TrainingError
from efficientai_toolkit.lora.analysis import Candidate, ShortRun
from efficientai_toolkit.lora.analysis.confirm import confirm
from efficientai_toolkit.lora.analysis.forecast import Forecast, choose, forecast
from efficientai_toolkit.lora.analysis.halving import halve


def candidate(count: int, gain: float) -> Candidate:
    return Candidate(
        mean_rank=1.0, form="uniform", gain=gain, ranks={"x": 1}, parameters=count, lora_alpha=1.0
    )


def test_halving_keeps_every_budget_and_doubles_the_steps() -> None:
    told: list[tuple[int, int, int, float]] = []

    def run(c: Candidate, number: int, steps: int) -> ShortRun:
        told.append((number, steps, c.parameters, c.gain))
        loss = None if c.gain == 4.0 else 2.0 + c.gain / c.parameters
        return ShortRun(candidate=c, round=number, steps=steps, loss=loss, reason=None, seconds=0.0)

    budgets = [[candidate(count, gain) for gain in (4.0, 3.0, 2.0, 1.0)] for count in (100, 10)]
    last = halve(budgets, run, 5)
    assert [(r.steps, r.candidate.gain, r.candidate.parameters) for r in last] == [
        (20, 1.0, 100),
        (20, 1.0, 10),
    ]
    assert [sum(number == n for number, *_ in told) for n in (1, 2, 3)] == [8, 4, 2]
    assert {steps for _, steps, *_ in told} == {5, 10, 20}


def expected(count: int, loss: float | None) -> Forecast:
    return Forecast(candidate=candidate(count, 1.0), loss=loss)


def test_the_fewest_parameters_that_do_what_one_rank_does() -> None:
    found = [expected(100, 2.0), expected(50, 2.09), expected(10, 2.2)]
    usual = [expected(80, 2.1), expected(160, None)]
    assert choose(found, usual, 0.0).parameters == 50
    assert choose(found, usual, 5.0).parameters == 10
    # One rank for all is a candidate too.
    assert choose(found, [expected(8, 1.9)], 0.0).parameters == 8
    # Forecasts of losses that fell fast.
    assert choose(found, [expected(8, -1.0)], 5.0).parameters == 8
    # Nothing to be as good as: the best there is.
    assert choose(found, [expected(80, None)], 0.0).parameters == 100


def short_run(steps: int, loss: float | None, gain: float = 1.0) -> ShortRun:
    one = candidate(10, gain)
    return ShortRun(candidate=one, round=1, steps=steps, loss=loss, reason=None, seconds=0.0)


def test_a_curve_goes_on_as_it_went() -> None:
    def loss(steps: int) -> float:
        return 2.0 + 3.0 / math.sqrt(steps)

    runs = [short_run(steps, loss(steps)) for steps in (60, 30, 15, 60)]
    others = [short_run(steps, 9.0 / steps, gain=2.0) for steps in (30, 60)]
    for whole in (60, 200, 5000):
        assert forecast([*others, *runs], candidate(10, 1.0), whole).loss == pytest.approx(loss(whole))
    # A whole run that is no longer than the short ones says it itself, and so does a single one.
    assert forecast(runs, candidate(10, 1.0), 20).loss == loss(60)
    assert forecast([short_run(15, 4.0)], candidate(10, 1.0), 200).loss == 4.0
    assert forecast([short_run(15, 4.0), short_run(30, None)], candidate(10, 1.0), 200).loss is None


def curve(c: Candidate, steps: int) -> float:
    """10 parameters learn fast and turn flat after 60 steps, 40 seem slow until then; others go on alike."""
    if c.parameters == 10:
        return 2.0 + 8.0 / math.sqrt(min(steps, 60))
    if c.parameters == 40 and steps == 30:
        return 2.0 + 6.0 / math.sqrt(steps)
    return 2.0 + (9.0 + c.gain / c.parameters) / math.sqrt(steps)


def confirmed(counts: list[int], usual: list[int], whole: int) -> tuple[int, list[tuple[int, int, int]]]:
    """What is chosen, and the runs that decided: parameters, round and steps."""
    told: list[tuple[int, int, int]] = []

    def run(c: Candidate, number: int, steps: int) -> ShortRun:
        told.append((c.parameters, number, steps))
        loss = curve(c, steps)
        return ShortRun(candidate=c, round=number, steps=steps, loss=loss, reason=None, seconds=0.0)

    found, references = ([candidate(n, 1.0) for n in numbers] for numbers in (counts, usual))
    runs = [run(c, number, steps) for number, steps in ((1, 30), (2, 60)) for c in [*found, *references]]
    told.clear()
    return confirm(runs, found, references, run, whole=whole, tolerance=0.1).choice.parameters, told


def short_run_of(c: Candidate, steps: int) -> ShortRun:
    return ShortRun(candidate=c, round=1, steps=steps, loss=curve(c, steps), reason=None, seconds=0.0)


def test_a_choice_that_turns_flat_does_not_stand() -> None:
    # At 60 steps 10 parameters look best; at 120 the next larger ones do.
    assert confirmed([100, 50, 10], [160], 1000) == (50, [(160, 3, 120), (10, 3, 120), (50, 3, 120)])
    # No longer than the whole run, and not where the short runs are no shorter.
    assert confirmed([100, 50, 10], [160], 80) == (50, [(160, 3, 80), (10, 3, 80), (50, 3, 80)])
    assert confirmed([100, 50, 10], [160], 60) == (10, [])


def test_few_parameters_get_a_longer_run_whatever_the_shorter_ones_said() -> None:
    before = [short_run_of(candidate(40, 1.0), steps) for steps in (30, 60)]
    target = curve(candidate(160, 1.0), 1000)
    assert (forecast(before, candidate(40, 1.0), 1000).loss or 0) > 1.01 * target
    assert confirmed([100, 40], [160], 1000) == (40, [(160, 3, 120), (40, 3, 120)])
    # Even where one of the usual ranks would do.
    assert confirmed([40], [50], 1000) == (40, [(50, 3, 120), (40, 3, 120)])


def test_longer_runs_that_fail_decide_nothing() -> None:
    asked: list[int] = []

    def run(c: Candidate, number: int, steps: int) -> ShortRun:
        asked.append(c.parameters)
        return ShortRun(candidate=c, round=number, steps=steps, loss=None, reason="no luck", seconds=0.0)

    found, usual = [candidate(100, 1.0), candidate(10, 1.0)], [candidate(160, 1.0)]
    runs = [short_run_of(c, steps) for steps in (30, 60) for c in [*found, *usual]]
    with pytest.raises(TrainingError, match="no short run of 120 steps succeeded; the last: no luck"):
        confirm(runs, found, usual, run, whole=1000, tolerance=0.0)
    # Nobody is asked twice, nor one who has failed already.
    assert sorted(asked) == [10, 100, 160]
    failed = ShortRun(candidate=found[1], round=2, steps=60, loss=None, reason="", seconds=0.0)
    asked.clear()
    with pytest.raises(TrainingError, match="no short run"):
        confirm([*runs[:-2], failed, runs[-1]], found, usual, run, whole=1000, tolerance=0.0)
    assert sorted(asked) == [100, 160]


def test_no_short_run_succeeds() -> None:
    def run(c: Candidate, number: int, steps: int) -> ShortRun:
        return ShortRun(candidate=c, round=number, steps=steps, loss=None, reason="no luck", seconds=0.0)

    with pytest.raises(TrainingError, match="none of 1 short runs succeeded; the first: no luck"):
        halve([[candidate(1, 1.0)]], run, 1)
