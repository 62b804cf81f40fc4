"""The choice among results of benchmarks of quantized models, and their comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.exceptions import (
    ConfigError,
)
from efficientai_toolkit.quantize import (
    compare,
    recommend,
)
from efficientai_toolkit.quantize.suite.measurement import find_front
from support.measurements import ROWS, make_result, make_row


def test_speed_in_five_processes_has_a_verdict() -> None:
    first, second = make_row("rtn-4bit-g64"), make_row("gptq-4bit-g64", mean_kl=0.001)
    first = replace(first, samples={"decode": [100.0, 101.0, 102.0, 99.0, 100.5]})
    second = replace(second, samples={"decode": [200.0, 201.0, 202.0, 199.0, 200.5]})
    one, other = make_result([first]), make_result([second])
    lines = {line.quantity: line for line in compare(one, other).lines}
    verdict = lines["decode"].verdict
    assert verdict is not None
    assert verdict.answer == "better"
    assert lines["mean KL"].second == 0.001
    assert lines["mean KL"].verdict is None
    once = replace(first, samples={"decode": [100.0]})
    (verdict,) = [
        line.verdict for line in compare(make_result([once]), make_result([once])).lines if line.verdict
    ]
    assert verdict.answer == "cannot tell"


def test_the_front_has_what_nothing_beats() -> None:
    assert [row.variant for row in find_front(ROWS)] == ["original", "small", "fast", "good"]
    # A little faster is no more than noise; twins stay both.
    assert find_front([*ROWS[:-2], replace(ROWS[4], decode_tokens_per_second=104.0)]) == ROWS[:4]
    twins = [make_row("a"), make_row("b", decode_tokens_per_second=101.0)]
    assert find_front(twins) == twins


@pytest.mark.parametrize(
    ("constraints", "variant", "reason"),
    [
        ({}, "fast", "of 5 that meet the constraints it is the fastest, 150.0 tokens/s"),
        ({"prefer": "size"}, "small", "it is the smallest, 8.0 MB"),
        ({"prefer": "quality"}, "original", "the closest to the original"),
        ({"max_memory": "45MB", "prefer": "quality"}, "good", "next would be bad"),
        ({"max_loss": "1%"}, "good", "perplexity 10.000 (+0.20%), 12 MB on disk, 20 MB of memory"),
        ({"max_loss": "1", "max_size": "0.0125 GB"}, "good", "the only one that meets the constraints"),
        ({"max_kl": 0.02, "min_speed": 120}, "fast", "the only one"),
        ({"max_size": "9 MiB", "prefer": "quality"}, "small", "the only one"),
    ],
)
def test_recommendations(constraints: dict[str, Any], variant: str, reason: str) -> None:
    found = recommend(make_result(ROWS), **constraints)
    assert found.row is not None
    assert found.row.variant == variant
    assert reason in found.reason
    assert found.excluded["broken"] == "failed: quantize: no way"


def test_a_recommendation_says_what_excluded_the_others() -> None:
    found = recommend(make_result(ROWS), max_memory="45MB", max_loss="1%")
    assert found.excluded["original"] == "peak memory 50 MB is above max_memory 45 MB"
    assert found.excluded["small"] == "increase of the perplexity +5.00% is above max_loss +1.00%"
    none = recommend(make_result(ROWS), max_size="1MB", min_speed=1000.0)
    assert none.row is None
    assert "the lowest size is 8.0 MB" in none.reason
    assert "the highest decoding speed is 150.0 tokens/s" in none.reason
    assert "decoding speed 50.0 tokens/s is below min_speed 1,000.0 tokens/s" in none.excluded["original"]


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"max_memory": "much"}, "`max_memory` must be a size such as 4GB or 500MB, not 'much'"),
        ({"max_size": "0"}, "`max_size` must be a size"),
        ({"max_loss": "-1%"}, "`max_loss` must be a share in percent, such as 1%, not '-1%'"),
        ({"max_kl": -1.0}, "`max_kl` must not be negative"),
        ({"prefer": "beauty"}, "`prefer` must be one of speed, size, quality"),
        ({"model": "other"}, "`model` other is not among the models of the results: m"),
    ],
)
def test_impossible_constraints_are_told(constraints: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recommend(make_result(ROWS), **constraints)


def test_rows_and_results_are_compared_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_result(ROWS, tmp_path / name).to_json(tmp_path / name / "results.json")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    whole = compare(a, b)
    assert {line.row for line in whole.lines} == {f"m/{row.variant}" for row in ROWS[:-1]}
    assert whole.failed == {"m/broken": "quantize: no way"}
    pair = compare(f"{a}::good", f"{b}::m/bad")
    assert {line.row for line in pair.lines} == {"good / bad"}
    with pytest.raises(ConfigError, match="`best` is not among the rows: m/original, m/small"):
        compare(f"{a}::best", b)
    with pytest.raises(ConfigError, match="no variant in common"):
        compare(f"{a}::good", make_result([make_row("x"), make_row("y")]))
