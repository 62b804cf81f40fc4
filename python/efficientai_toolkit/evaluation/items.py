"""Questions that a model answers by the probabilities of given answers, without generating text.

The likelihood of each choice is compared, or, for a row with one completion, the completion must be what
greedy decoding would write, as in `LAMBADA <https://arxiv.org/abs/1606.06031>`_.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from efficientai_toolkit.data.rows import Row, read_rows

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A question with its possible answers."""

    prompt: str
    choices: list[str]
    answer: int | None
    """Place of the right choice; ``None`` if there is one completion to be reproduced."""


def read_items(path: Path, limit: int | None = None) -> list[Item]:
    """Read questions from a JSONL file.

    Parameters
    ----------
    path
        File whose rows have ``prompt``, ``choices`` (at least two) and ``answer``, the place of the right one
        from 0; or ``prompt`` and ``completion``.
    limit
        Maximum number of rows.

    Raises
    ------
    DatasetError
        If the file cannot be read or a row is neither; the message names file and line.
    """
    return [_read(row) for row in read_rows(path, limit)]


def _read(row: Row) -> Item:
    match row.values:
        case {"prompt": str(prompt), "choices": [_, _, *_] as choices, "answer": int(answer)} if prompt:
            texts = cast("list[object]", choices)
            if not all(isinstance(text, str) and text for text in texts):
                reason = "`choices` must be texts that are not empty"
                raise row.blame(reason)
            if isinstance(answer, bool) or not 0 <= answer < len(texts):
                reason = f"`answer` must be the place of a choice, from 0 to {len(texts) - 1}, not {answer}"
                raise row.blame(reason)
            return Item(prompt=prompt, choices=cast("list[str]", texts), answer=answer)
        case {"prompt": str(prompt), "completion": str(completion)} if prompt and completion:
            return Item(prompt=prompt, choices=[completion], answer=None)
        case _:
            names = ", ".join(row.values) or "(none)"
            reason = (
                f"keys {names}: a question has `prompt`, `choices` (a list of at least two texts) and "
                "`answer` "
                "(the place of the right one), or `prompt` and `completion`"
            )
            raise row.blame(reason)


def answer_items(
    model: "Model", tokenizer: "Tokenizer", items: Sequence[Item], *, batch_size: int = 8
) -> list[bool]:
    """Return for each question whether the model answers it right.

    Prompts are passed without a chat template. Choices are compared by their log-likelihood per byte. Of what
    exceeds the context of the model, the beginning of the prompt is left out.

    Parameters
    ----------
    model, tokenizer
        From :func:`efficientai_toolkit.load`.
    items
        Questions.
    batch_size
        Sequences that go through the model together.
    """
    from efficientai_toolkit._engine.core import core

    longest = int(model.config.get("max_position_embeddings", 2048))
    rows = [_tokenize(tokenizer, item.prompt, text, longest) for item in items for text in item.choices]
    # Of similar length, so that little of a batch is padding.
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
    found = core.evaluate.score_tokens(model, [rows[place] for place in order], batch_size)
    scored = dict(zip(order, found, strict=True))
    answers: list[bool] = []
    first = 0
    for item in items:
        scores = [scored[first + place] for place in range(len(item.choices))]
        first += len(scores)
        if item.answer is None:
            answers.append(all(is_likeliest for _, is_likeliest in scores[0]))
        else:
            likelihoods = [
                sum(score for score, _ in row) / len(text.encode())
                for row, text in zip(scores, item.choices, strict=True)
            ]
            answers.append(likelihoods.index(max(likelihoods)) == item.answer)
    return answers


def _tokenize(tokenizer: "Tokenizer", prompt: str, text: str, longest: int) -> tuple[list[int], int]:
    """Return the tokens of both and the place of the first that belongs to ``text``."""
    start = len(tokenizer.encode(prompt, add_special_tokens=True))
    ids = tokenizer.encode(prompt + text, add_special_tokens=True)
    # The border may fall into a token, which then counts, as do all if the text ends the only one.
    start = max(min(start, len(ids) - 1), 1)
    cut = max(len(ids) - longest, 0)
    return ids[cut:], max(start - cut, 1)
