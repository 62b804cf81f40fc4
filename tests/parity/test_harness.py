"""The model that lm-evaluation-harness drives, against all logits; it needs no PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]

TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{q}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def harness_model() -> Any:
    from efficientai_toolkit.evaluation.harness import HarnessModel

    return HarnessModel(*eat.load())


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=args) for args in arguments]


def expected(harness_model: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    ids = context + continuation
    scores = np.asarray(harness_model._model(np.array([ids[:-1]])), dtype=np.float64)[0]
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    scores = scores[len(context) - 1 :]
    total = sum(scores[i, token] for i, token in enumerate(continuation))
    return float(total), bool((scores.argmax(-1) == continuation).all())


def test_loglikelihoods_are_those_of_all_logits(harness_model: Any) -> None:
    pairs = [
        ("Question: What is tea?\nAnswer:", " Tea is a drink."),
        ("", "Once upon a time"),
        ("To be ", "or not"),
    ]
    scored = harness_model.loglikelihood(requests(*pairs), disable_tqdm=True)
    encode = harness_model.tok_encode
    for (context, continuation), (total, greedy) in zip(pairs, scored, strict=True):
        if context:
            whole = encode(context + continuation)
            opening = encode(context.rstrip())
            rest = whole[len(opening) :]
        else:
            opening = [harness_model.prefix_token_id]
            rest = encode(continuation, add_special_tokens=False)
        wanted = expected(harness_model, opening, rest)
        assert total == pytest.approx(wanted[0], abs=1e-3)
        assert greedy == wanted[1]


def test_what_the_model_says_is_greedy(harness_model: Any) -> None:
    prompt = "Question: What is tea?\nAnswer:"
    (answer,) = harness_model.generate_until(requests((prompt, {"until": ["\n"], "max_gen_toks": 8})))
    assert answer == eat.generate(
        harness_model._model, harness_model._tokenizer, prompt, max_tokens=8, stop=["\n"]
    )
    ((_, greedy),) = harness_model.loglikelihood(requests((prompt, answer)), disable_tqdm=True)
    assert greedy


def test_rolling_windows_add_up(harness_model: Any) -> None:
    text = "To be, or not to be, that is the question: " * 3
    ids = harness_model.tok_encode(text, add_special_tokens=False)
    (whole,) = harness_model.loglikelihood_rolling(requests((text,)))
    assert whole == pytest.approx(expected(harness_model, [harness_model.prefix_token_id], ids)[0], abs=1e-2)
    harness_model.max_length = 16
    (windows,) = harness_model.loglikelihood_rolling(requests((text,)))
    assert windows < whole


def test_a_task_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientai_toolkit.evaluation.harness import run_tasks

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": "What is tea?", "choices": [" A drink.", " xq zzv."], "label": 0}] * 3
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "colours.yaml").write_text(TASK.format(data=data))
    model, tokenizer = eat.load()
    own: dict[str, Any] = {"include_path": str(tmp_path), "include_defaults": False}
    scores = run_tasks(model, tokenizer, ["colours"], limit=2, **own)
    assert scores["colours"]["acc"] == 1.0
    with pytest.raises(ConfigError, match="lm-evaluation-harness has no task `no-such-task`"):
        run_tasks(model, tokenizer, ["no-such-task"], **own)
