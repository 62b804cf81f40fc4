"""Questions answered by likelihood, and paired tests of two models."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.cli import main
from efficientai_toolkit.compress import QualityConfig, compare
from efficientai_toolkit.evaluation.items import Item, answer_items, read_items
from efficientai_toolkit.evaluation.paired import compare_answers, compare_losses
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from support.rows import write_jsonl


def test_the_p_value_of_answers_is_that_of_the_sign_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for won, lost in ((0, 0), (3, 9), (1, 0), (40, 61), (900, 1100)):
        answers = [True] * won + [False] * lost + [True] * 7 + [False] * 5
        reference = [False] * won + [True] * lost + [True] * 7 + [False] * 5
        found = compare_answers(answers, reference)
        expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
        assert found.p == pytest.approx(expected, rel=1e-9)
        assert found.value == (won - lost) / len(answers)
        assert found.low < found.value < found.high


def test_the_interval_of_answers_covers_the_difference() -> None:
    rng = np.random.default_rng(0)
    count, covered = 400, 0
    for _ in range(count):
        first = rng.random(300) < 0.6
        second = np.where(rng.random(300) < 0.15, rng.random(300) < 0.4, first)
        found = compare_answers(list(second), list(first))
        covered += found.low <= 0.15 * (0.4 - 0.6) <= found.high
    assert covered / count > 0.92


def test_the_interval_of_the_perplexity_covers_its_increase() -> None:
    rng = np.random.default_rng(1)
    count, covered = 200, 0
    same = compare_losses([40.0, 30.0], [40.0, 30.0], [20, 15])
    assert (same.value, same.low, same.high, same.is_found) == (0, 0, 0, False)
    for _ in range(count):
        tokens = rng.integers(20, 40, size=150)
        reference = 2.0 * tokens + rng.normal(size=150)
        losses = reference + 0.01 * tokens + 0.3 * rng.normal(size=150)
        found = compare_losses(list(losses), list(reference), list(tokens))
        covered += found.low <= math.expm1(0.01) <= found.high
    assert covered / count > 0.9


def test_answers_follow_from_the_probabilities_of_the_model() -> None:
    model, tokenizer = eat.load(show_progress=False)
    prompt = "Once upon a time"
    ids = tokenizer.encode(prompt)
    best = int(np.argmax(np.asarray(model(np.array([ids])))[0, -1]))
    right = tokenizer.decode([*ids, best])[len(tokenizer.decode(ids)) :]
    wrong = tokenizer.decode([*ids, int(np.argmin(np.asarray(model(np.array([ids])))[0, -1]))])
    wrong = wrong[len(tokenizer.decode(ids)) :] or "zzz"
    items = [
        Item(prompt=prompt, choices=[right], answer=None),
        Item(prompt=prompt, choices=[wrong], answer=None),
        Item(prompt=prompt, choices=[wrong, right], answer=1),
        Item(prompt=prompt, choices=[wrong, right], answer=0),
    ]
    assert answer_items(model, tokenizer, items) == [True, False, True, False]
    scored = core.evaluate.score_tokens(model, [([*ids, best], len(ids))])
    assert scored[0][0][1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "keys text: a question has `prompt`, `choices`"),
        ({"prompt": "x", "choices": ["a"], "answer": 0}, "a question has"),
        ({"prompt": "x", "choices": ["a", ""], "answer": 0}, "`choices` must be texts that are not empty"),
        ({"prompt": "x", "choices": ["a", "b"], "answer": 2}, "from 0 to 1, not 2"),
        ({"prompt": "x", "choices": ["a", "b"], "answer": True}, "from 0 to 1"),
        ({"prompt": "", "completion": "b"}, "a question has"),
    ],
)
def test_rows_that_are_no_questions_are_named(row: dict[str, object], message: str, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    write_jsonl(file, [{"prompt": "a", "completion": " b"}, row])
    with pytest.raises(DatasetError, match=rf"questions.jsonl:2: .*{message}"):
        read_items(file)


def test_models_are_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "questions.jsonl"
    write_jsonl(file, [{"prompt": "Once upon a", "completion": " time"}] * 3)
    words = ["--sequences", "2", "--length", "32", "--task", str(file)]
    coarse = tmp_path / "coarse"
    eat.quantize.quantize(technique="rtn", bits=3, embedding_bits=4, output=str(coarse), show_progress=False)
    assert main(["cpu-model-compression:evaluate", "--model-path", str(coarse), *words]) == 0
    assert "perplexity" in capsys.readouterr().out
    bundled = str(MODEL)
    assert main(["cpu-model-compression:compare", bundled, str(coarse), *words]) == 0
    shown = capsys.readouterr().out
    assert "original" in shown
    assert "coarse" in shown


def test_comparisons_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`models` is empty"):
        compare([])
    with pytest.raises(ConfigError, match="`length` must be at least 2, not 1"):
        QualityConfig(length=1)
    with pytest.raises(DatasetError, match="which `task` names"):
        compare([None], task=str(tmp_path / "nothing.jsonl"))
