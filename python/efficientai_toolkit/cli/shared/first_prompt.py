"""The default prompt: the first one of the validation data."""

from pathlib import Path
from typing import Any

from efficientai_toolkit.data.rows import find_validation_file, read_rows
from efficientai_toolkit.exceptions import DatasetError

DEFAULT = "Once upon a time"
_OPENING_WORDS = 12


def find_first_prompt(data: Path) -> str:
    """Return the prompt of the first row of ``data``, a JSONL file or a folder.

    This is the ``prompt`` column, the first user message of a chat, or the first words of a text. Unreadable
    data give a default prompt; training reports the error.
    """
    try:
        path = (find_validation_file(data) or data / "train.jsonl") if data.is_dir() else data
        [row] = read_rows(path, limit=1)
    except DatasetError:
        return DEFAULT
    return _prompt_of(row.values) or DEFAULT


def _prompt_of(row: Any) -> str | None:
    match row:
        case {"prompt": str(prompt)}:
            return prompt
        case {"messages": [*messages]} | {"prompt": [*messages]} | {"chosen": [*messages]}:
            for message in messages:
                match message:
                    case {"role": "user", "content": str(content)}:
                        return content
                    case _:
                        pass
            return None
        case {"text": str(text)}:
            return " ".join(text.split()[:_OPENING_WORDS])
        case _:
            return None
