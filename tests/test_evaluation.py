"""Measuring models: against all logits, by hand, and on tasks of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit import _core
from efficientai_toolkit.cli import main
from efficientai_toolkit.data.rows import Row
from efficientai_toolkit.evaluation import EvaluationConfig
from efficientai_toolkit.evaluation.metrics import GENERATED, compute_f1
from efficientai_toolkit.evaluation.questions import build_question, fill_row
from efficientai_toolkit.exceptions import ConfigError, DatasetError, DependencyError, ModelLoadingError
from support.engine import MODELS
from support.rows import EOS, random_ids, words, write_jsonl

MODEL = MODELS / "llama_gqa"


@pytest.fixture
def loaded() -> tuple[_core.models.Model, _core.models.Tokenizer]:
    return eat.load(MODEL)


def logprobs(model: _core.models.Model, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of each token but the first, and whether it is the likeliest; in float64."""
    scores = np.asarray(model(np.array([ids[:-1]])), dtype=np.float64)[0]
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    targets = np.array(ids[1:])
    return scores[np.arange(len(targets)), targets], scores.argmax(-1) == targets


def test_token_scores_are_those_of_all_logits(
    loaded: tuple[_core.models.Model, _core.models.Tokenizer],
) -> None:
    model, _ = loaded
    rows = random_ids(5, [2, 9, 30], seed=3)
    starts = [1, 4, 29, 1, 8]
    for batch_size in (1, 4):
        scored = _core.evaluate.score_tokens(model, list(zip(rows, starts, strict=True)), batch_size)
        for ids, start, row in zip(rows, starts, scored, strict=True):
            expected, likeliest = logprobs(model, ids)
            assert [score for score, _ in row] == pytest.approx(expected[start - 1 :], abs=2e-5)
            assert [best for _, best in row] == list(likeliest[start - 1 :])


def test_perplexity_and_token_accuracy(
    loaded: tuple[_core.models.Model, _core.models.Tokenizer], tmp_path: Path
) -> None:
    model, tokenizer = loaded
    rows = random_ids(5, [4, 17, 9], seed=5)
    # One row that the model foresees in part: it continues itself.
    answer = eat.generate(model, tokenizer, words(rows[0]), max_tokens=6)
    texts = [*map(words, rows), f"{words(rows[0])} {answer}"]
    data = write_jsonl(tmp_path / "d.jsonl", [{"text": text} for text in texts])
    losses, right = [], []
    for line in data.read_text().splitlines():
        ids = [*tokenizer.encode(json.loads(line)["text"]), EOS]
        expected, likeliest = logprobs(model, ids)
        losses += list(-expected)
        right += list(likeliest)
    result = eat.lora.evaluate(model, tokenizer, data=str(data), batch_size=2)
    assert result.tokens == len(losses)
    assert result.metrics["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert result.metrics["token_accuracy"] == pytest.approx(np.mean(right))
    assert result.metrics["token_accuracy"] > 0


def test_prompts_are_not_scored(
    loaded: tuple[_core.models.Model, _core.models.Tokenizer], tmp_path: Path
) -> None:
    model, tokenizer = loaded
    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "t5 t6 t7", "completion": " t8 t9"}])
    masked = eat.lora.evaluate(model, tokenizer, data=str(data))
    whole = eat.lora.evaluate(model, tokenizer, data=str(data), mask_prompt=False)
    assert masked.tokens is not None
    assert whole.tokens is not None
    assert masked.tokens < whole.tokens
    cut = eat.lora.evaluate(model, tokenizer, data=str(data), mask_prompt=False, max_seq_length=3)
    assert (cut.truncated_rows, cut.tokens) == (1, 2)


def test_answers_are_generated_and_compared(
    loaded: tuple[_core.models.Model, _core.models.Tokenizer], tmp_path: Path
) -> None:
    model, tokenizer = loaded
    right = eat.generate(model, tokenizer, "t5 t6", max_tokens=5)
    rows = [{"q": "t5 t6", "a": right}, {"q": "t7", "a": "t3 t3 t3 t3 t3 t3"}]
    data = write_jsonl(tmp_path / "d.jsonl", rows)
    task = EvaluationConfig(
        data=str(data), prompt="{q}", reference="{a}", metrics=["exact_match", "f1"], max_tokens=5
    )
    seen: list[tuple[int, int]] = []
    result = eat.lora.evaluate(model, tokenizer, task, on_answer=lambda *count: seen.append(count))
    assert seen == [(1, 2), (2, 2)]
    assert result.answers[0].text == right
    assert result.metrics["exact_match"] == 0.5
    assert result.metrics["f1"] == pytest.approx((1 + compute_f1(result.answers[1].text, rows[1]["a"])) / 2)
    assert result.tokens is None
    first = eat.lora.evaluate(model, tokenizer, task, limit=1)
    assert (first.rows, first.metrics["exact_match"]) == (1, 1.0)


ANSWERS, REFERENCES = ["the cat sat on the mat"], ["the cat is on the mat"]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("exact_match", 0.0),
        # Without articles: cat sat on mat, cat is on mat.
        ("f1", 0.75),
        # Precisions 5/6, 3/5, 1/4 and, of none in 3, smoothed, 1/6.
        ("bleu", 100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25),
        ("rouge1", 5 / 6),
        ("rouge2", 3 / 5),
        ("rougeL", 5 / 6),
    ],
)
def test_metrics_by_hand(metric: str, expected: float) -> None:
    assert GENERATED[metric](ANSWERS, REFERENCES) == pytest.approx(expected)
    assert GENERATED[metric](REFERENCES, REFERENCES) == pytest.approx(100.0 if metric == "bleu" else 1.0)


def test_words_are_compared_as_squad_does() -> None:
    assert compute_f1("The Eiffel Tower!", "eiffel tower") == 1.0
    assert compute_f1("a", "the") == 1.0
    assert compute_f1("", "tower") == 0.0
    assert compute_f1("tower tower", "tower") == pytest.approx(2 / 3)
    assert GENERATED["exact_match"]([" 42\n"], ["42"]) == 1.0


def test_answers_are_found_by_an_expression() -> None:
    task = EvaluationConfig(answer=r"#### (.*)")
    assert task.extract("5 + 5 = 10\n#### 10 \n") == "10"
    assert task.extract("ten") is None
    assert EvaluationConfig(answer=r"-?\d+").extract("it is -7, I think") == "-7"
    assert EvaluationConfig(answer=r"(a)|b").extract("b") == ""
    assert EvaluationConfig().extract(" all ") == "all"


def a_row(**values: Any) -> Row:
    return Row(path=Path("d.jsonl"), line=3, values=values)


def test_templates() -> None:
    task = EvaluationConfig(prompt="Q: {question}\n{{A}}: ", reference="{answer} of {n}")
    row = a_row(question="Why {x}?", answer="so", n=3)
    asked = build_question(task, row)
    assert (asked.prompt, asked.reference) == ("Q: Why {x}?\n{A}: ", "so of 3")
    assert json.loads(fill_row(task, row)) == {"prompt": asked.prompt, "completion": "so of 3"}
    with pytest.raises(
        DatasetError, match=r"d\.jsonl:3: no column `answer`, which a template names; there are q"
    ):
        build_question(task, a_row(question="?", q=1))


def test_rows_bring_their_own_question() -> None:
    task = EvaluationConfig()
    messages = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    asked = build_question(task, a_row(messages=messages, tools=[{"name": "f"}]))
    assert (asked.prompt, asked.reference, asked.tools) == (messages[:1], "b", [{"name": "f"}])
    with pytest.raises(DatasetError, match=r"d\.jsonl:3: no message of the assistant"):
        build_question(task, a_row(messages=messages[:1]))
    with pytest.raises(DatasetError, match=r"d\.jsonl:3: keys text: answers can be judged for rows with"):
        build_question(task, a_row(text="a"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["bleu2"]}, "`metrics` names the unknown `bleu2`; did you mean `bleu`?"),
        ({"metrics": ["speed"]}, "`metrics` names the unknown `speed`; there are perplexity"),
        ({"metrics": []}, "`metrics` is empty"),
        ({"limit": 0}, "`limit` must be at least 1, not 0"),
        ({"batch_size": -1}, "`batch_size` must be at least 1, not -1"),
        ({"prompt": "{q}"}, "`prompt` is a template, so `reference` must be one too"),
        ({"reference": "{q}"}, "`reference` is a template, so `prompt` must be one too"),
        ({"answer": "(a"}, "`answer` is not a valid regular expression: missing"),
        ({"metric": ["f1"]}, "unknown key `metric`; did you mean `metrics`"),
    ],
)
def test_wrong_tasks_are_explained(
    loaded: tuple[_core.models.Model, _core.models.Tokenizer], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        eat.lora.evaluate(*loaded, **settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"d\.jsonl: the file holds no rows"),
        (b'{"text": "t5"}\n[1]\n', r"d\.jsonl:2: a row must be a JSON object, not list"),
        (b'{"text": "t5"}\n\n{"text": \n', r"d\.jsonl:3: invalid JSON"),
        (b'{"text": "t5"}\n\n{"txt": "t5"}\n', r'd\.jsonl:3: found keys "txt"; a row needs "text"'),
        (b'{"text": "\xff"}', r"d\.jsonl: not UTF-8 text"),
        (b"[" * 100_000, r"d\.jsonl:1: invalid JSON"),
    ],
)
def test_wrong_data_are_explained(
    loaded: tuple[_core.models.Model, _core.models.Tokenizer], tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        eat.lora.evaluate(*loaded, data=str(tmp_path / "d.jsonl"))


def test_missing_data_and_answers(
    loaded: tuple[_core.models.Model, _core.models.Tokenizer], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="there is no folder or file nowhere"):
        eat.lora.evaluate(*loaded, data="nowhere")
    with pytest.raises(DatasetError, match=r"no test\.jsonl and no valid\.jsonl to evaluate on"):
        eat.lora.evaluate(*loaded, data=str(tmp_path))
    write_jsonl(tmp_path / "valid.jsonl", [{"prompt": "t5", "completion": "t6"}])
    with pytest.raises(
        DatasetError, match=r"valid\.jsonl:1: `answer` \(#+\) finds nothing in the reference answer"
    ):
        eat.lora.evaluate(*loaded, data=str(tmp_path), metrics=["f1"], answer="####")


def test_impossible_token_rows(loaded: tuple[_core.models.Model, _core.models.Tokenizer]) -> None:
    with pytest.raises(ConfigError, match="row 0 has 2 tokens, of which those from 0 on"):
        _core.evaluate.score_tokens(loaded[0], [([5, 6], 0)])
    with pytest.raises(ModelLoadingError, match="token 99999"):
        _core.evaluate.score_tokens(loaded[0], [([5, 99999], 1)])


def test_a_missing_library_is_named_before_the_work(
    loaded: tuple[_core.models.Model, _core.models.Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(DependencyError, match=r"metric `bleu` needs sacrebleu.*\[evaluation\]'"):
        eat.lora.evaluate(*loaded, metrics=["bleu"])
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    sys.modules.pop("efficientai_toolkit.evaluation.harness", None)
    with pytest.raises(DependencyError, match=r"lm-evaluation-harness needs lm_eval.*\[lm-eval\]'"):
        __import__("efficientai_toolkit.evaluation.harness")


def test_the_command_with_a_task_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "task.yaml"
    data = write_jsonl(tmp_path / "d.jsonl", [{"question": "Why?", "answer": "So.\n#### 7"}])
    task.write_text(
        f"data: {data}\nprompt: 'Question: {{question}}'\nreference: '{{answer}}'\nanswer: '#### (.*)'\n"
        "metrics: [perplexity, exact_match]\nmax_tokens: 4\n"
    )
    words = ["lora-finetuning-mlx:evaluate", "--config", str(task)]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["metrics"]) == ["perplexity", "exact_match"]
    assert report["answers"][0]["reference"] == "7"
    assert main([*words, "--metrics", "token_accuracy"]) == 0
    out = capsys.readouterr().out
    assert "token_accuracy  0." in out
    assert main([*words, "--metrics", "speed"]) == 2
    assert "`metrics` names the unknown `speed`" in capsys.readouterr().err


def test_the_bundled_rows_are_the_default() -> None:
    model, tokenizer = eat.load()
    result = eat.lora.evaluate(model, tokenizer, limit=4)
    assert result.rows == 4
    assert result.data.endswith("instructions/test.jsonl")
    assert 1 < result.metrics["perplexity"] < 10_000
