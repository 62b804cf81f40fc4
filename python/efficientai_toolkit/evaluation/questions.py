"""Prompts and references built from rows."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from efficientai_toolkit.data.rows import Row
from efficientai_toolkit.evaluation.config import EvaluationConfig

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt and its reference answer."""

    prompt: str | list[dict[str, Any]]
    """Text, or the messages before the answer."""
    reference: str
    tools: list[dict[str, Any]] | None = None


def fill_row(config: EvaluationConfig, row: Row) -> str:
    """Return a row in the format of training data, with the templates filled in."""
    if config.prompt is None or config.reference is None:
        return json.dumps(row.values)
    return json.dumps({"prompt": _fill(config.prompt, row), "completion": _fill(config.reference, row)})


def build_question(config: EvaluationConfig, row: Row) -> Question:
    """Build the question of a row.

    Raises
    ------
    DatasetError
        If the row has no prompt or no reference.
    """
    if config.prompt is not None and config.reference is not None:
        return Question(prompt=_fill(config.prompt, row), reference=_fill(config.reference, row))
    match row.values:
        case {"prompt": str(prompt), "completion": str(completion)}:
            return Question(prompt=prompt, reference=completion)
        case {"messages": [*messages]}:
            tools: Any = row.values.get("tools")
            for index in range(len(messages) - 1, 0, -1):
                match messages[index]:
                    case {"role": "assistant", "content": str(content)}:
                        return Question(prompt=messages[:index], reference=content, tools=tools)
                    case _:
                        pass
            reason = "no message of the assistant to compare answers with"
        case _:
            reason = (
                f"keys {', '.join(row.values) or '(none)'}: answers can be judged for rows with `prompt` and "
                "`completion`, for `messages`, or with the templates `prompt` and `reference`"
            )
    raise row.blame(reason)


def _fill(template: str, row: Row) -> str:
    """Fill columns into a template; ``{{`` and ``}}`` are literal braces."""

    def place(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0][0]
        value = _column(row.values, name)
        if value is None:
            reason = f"no column `{name}`, which a template names; there are {', '.join(row.values)}"
            raise row.blame(reason)
        return value

    return _PLACE.sub(place, template)


def _column(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if isinstance(value, str) or value is None:
        return value
    return json.dumps(value, ensure_ascii=False)
