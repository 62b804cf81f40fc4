"""From a model and a task to scores."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.data.rows import Row, read_rows
from efficientai_toolkit.evaluation.config import EvaluationConfig, find_data_file
from efficientai_toolkit.evaluation.metrics import GENERATED, SCORED, check_installed
from efficientai_toolkit.evaluation.questions import Question, build_question, fill_row
from efficientai_toolkit.models.chat import format_question
from efficientai_toolkit.models.generation import GenerateConfig, generate_with_statistics

if TYPE_CHECKING:
    from efficientai_toolkit._core import Model, Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One generated answer beside the right one."""

    line: int
    """Where the row stands in the data, 1-based."""
    text: str
    """All that was generated."""
    answer: str | None
    """What the expression found in it; ``None`` where it found nothing, which counts as an empty answer."""
    reference: str
    """What it was compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """Scores of one model on one task."""

    metrics: dict[str, float]
    """In the order of the task's ``metrics``."""
    data: str
    """The file the rows came from."""
    rows: int
    tokens: int | None
    """Tokens of right answers that were scored; ``None`` where no metric needs them."""
    truncated_rows: int
    dropped_rows: int
    """Rows with no token to score within ``max_seq_length``."""
    seconds: float
    answers: list[Answer]
    """Empty where no metric needs them."""


def evaluate(
    model: "Model",
    tokenizer: "Tokenizer",
    config: EvaluationConfig | None = None,
    *,
    on_answer: Callable[[int, int], object] | None = None,
    **overrides: Any,
) -> EvaluationResult:
    """Measure a model on rows it has not learned from.

    Answers are generated greedily. Rows are put to the model as in training: with a chat template a
    prompt is a message of the user.

    Parameters
    ----------
    model, tokenizer
        From :func:`efficientai_toolkit.load`.
    config
        The task; by default perplexity and token accuracy on the bundled test rows.
    on_answer
        Receives how many answers are there, and how many there will be.
    **overrides
        Fields of :class:`EvaluationConfig` that win over ``config``.

    Returns
    -------
    EvaluationResult

    Raises
    ------
    ConfigError
        The task is impossible; the key is named.
    DatasetError
        A row cannot be read or asked; file and line are named.
    DependencyError
        A metric needs a library that is not installed.
    """
    from efficientai_toolkit._engine.core import core

    task = (config or EvaluationConfig()).with_values(overrides)
    task.check()
    check_installed(task.metrics)
    started = perf_counter()
    path = find_data_file(task)
    rows = read_rows(path, task.limit)
    # Before anything slow, so that a wrong row at the end is reported at once.
    questions = [build_question(task, row) for row in rows] if task.generates else []
    references = [_reference(task, row, q) for row, q in zip(rows, questions, strict=False)]
    scores: dict[str, float] = {}
    report: dict[str, Any] = {}
    if any(name in SCORED for name in task.metrics):
        lines = [(row.line, fill_row(task, row)) for row in rows]
        settings = {
            "batch_size": task.batch_size,
            "max_seq_length": task.max_seq_length,
            "mask_prompt": task.mask_prompt,
        }
        report = json.loads(core.score_rows(model, tokenizer, str(path), lines, json.dumps(settings)))
        scores |= {name: report[name] for name in SCORED}
    answers: list[Answer] = []
    for row, asked, reference in zip(rows, questions, references, strict=False):
        text = _ask(model, tokenizer, asked, task)
        answers.append(Answer(line=row.line, text=text, answer=task.extract(text), reference=reference))
        if on_answer is not None:
            on_answer(len(answers), len(rows))
    given = [answer.answer or "" for answer in answers]
    for name in task.metrics:
        if name in GENERATED:
            scores[name] = GENERATED[name](given, references)
    return EvaluationResult(
        metrics={name: scores[name] for name in task.metrics},
        data=str(path),
        rows=len(rows),
        tokens=report.get("tokens"),
        truncated_rows=report.get("truncated_rows", 0),
        dropped_rows=report.get("dropped_rows", 0),
        seconds=perf_counter() - started,
        answers=answers,
    )


def _reference(task: EvaluationConfig, row: Row, asked: Question) -> str:
    answer = task.extract(asked.reference)
    if answer is None:
        reason = f"`answer` ({task.answer}) finds nothing in the right answer"
        raise row.blame(reason)
    return answer


def _ask(model: "Model", tokenizer: "Tokenizer", asked: Question, task: EvaluationConfig) -> str:
    settings = GenerateConfig(max_tokens=task.max_tokens, stop=task.stop)
    if isinstance(asked.prompt, str):
        return generate_with_statistics(
            model, tokenizer, format_question(tokenizer, asked.prompt), settings
        ).text
    return generate_with_statistics(model, tokenizer, asked.prompt, settings, tools=asked.tools).text
