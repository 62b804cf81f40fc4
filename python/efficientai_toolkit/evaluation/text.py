"""Held-out text as token sequences of equal length."""

from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit.data.rows import Row, read_rows
from efficientai_toolkit.evaluation.config import EvaluationConfig, find_data_file
from efficientai_toolkit.exceptions import DatasetError

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Tokenizer


def read_sequences(tokenizer: "Tokenizer", data: str | None, *, count: int, length: int) -> list[list[int]]:
    """Tokenize rows as in training and cut their concatenation into sequences.

    Parameters
    ----------
    tokenizer
        Tokenizer of the model.
    data
        JSONL file, or folder with ``test.jsonl`` or ``valid.jsonl``; ``None`` for the bundled instructions.
    count
        Maximum number of sequences.
    length
        Tokens per sequence.

    Raises
    ------
    DatasetError
        If there is no such file, a row cannot be used, or the text is shorter than one sequence.
    """
    path = find_data_file(EvaluationConfig(data=data))
    tokens: list[int] = []
    for row in read_rows(path):
        tokens += tokenize_row(tokenizer, row)
        if len(tokens) >= count * length:
            break
    if len(tokens) < length:
        message = f"{path} has {len(tokens)} tokens, too few for one evaluation sequence of {length} tokens"
        raise DatasetError(message)
    starts = range(0, min(len(tokens) // length, count) * length, length)
    return [tokens[start : start + length] for start in starts]


def find_text(data: str | None) -> Path:
    """Return the file that :func:`read_sequences` reads, after checking its first row.

    Raises
    ------
    DatasetError
        If there is no such file, or its first row cannot be used.
    """
    path = find_data_file(EvaluationConfig(data=data))
    [row] = read_rows(path, limit=1)
    _messages_or_text(row)
    return path


def tokenize_row(tokenizer: "Tokenizer", row: Row) -> list[int]:
    """Tokenize a row as training does: a conversation with the chat template, a text up to its end.

    Raises
    ------
    DatasetError
        If the row is in none of the formats.
    """
    content = _messages_or_text(row)
    if isinstance(content, tuple):
        prompt, completion = content
        if tokenizer.has_chat_template:
            content = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": completion},
            ]
        else:
            content = prompt + completion
    if isinstance(content, list):
        text = tokenizer.apply_chat_template(
            content, row.values.get("tools"), add_generation_prompt=False, tokenize=False
        )
        return tokenizer.encode(text, add_special_tokens=False)
    ids = tokenizer.encode(content)
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _messages_or_text(row: Row) -> "str | tuple[str, str] | list[dict[str, object]]":
    """Return a text, a prompt with its completion, or the messages of a conversation."""
    match row.values:
        case {"messages": [*messages]}:
            return messages
        case {"prompt": str(prompt), "completion": str(completion)}:
            return prompt, completion
        case {"text": str(text)}:
            return text
        case _:
            names = ", ".join(row.values) or "(none)"
            reason = f"keys {names}: a row has `text`, `prompt` and `completion`, or `messages`"
            raise row.blame(reason)
