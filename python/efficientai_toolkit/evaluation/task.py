"""What is asked of a model, and how its answers are judged."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit._base.assets import INSTRUCTIONS
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.evaluation.metrics import METRICS, SCORED
from efficientai_toolkit.exceptions import ConfigError, DatasetError

_LONGEST_LINE = 16 << 20
"""Characters; the engine refuses longer ones too."""

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig(Config):
    """A task: which rows, how they are asked, how answers are judged."""

    data: str | None = setting(
        None, "jsonl file, or folder with test.jsonl or valid.jsonl (default: the bundled instructions)"
    )
    prompt: str | None = setting(
        None,
        "template of the question; {name} is a column of the row (default: the row's own prompt)",
    )
    reference: str | None = setting(None, "template of the right answer (default: the row's own completion)")
    answer: str | None = setting(
        None,
        "regular expression that finds the answer in texts, such as '#### (.*)': its first group, or all it "
        "matches (default: the whole text)",
    )
    metrics: list[str] = setting(
        ["perplexity", "token_accuracy"], f"what to measure, of {', '.join(METRICS)}", separator=","
    )
    limit: int | None = setting(None, "take only the first so many rows (default: all)")
    max_tokens: int = setting(128, "longest generated answer, in tokens")
    stop: list[str] = setting([], "end an answer before this text; give the option again for more")
    batch_size: int = setting(8, "rows that go through the model together when tokens are scored")
    max_seq_length: int = setting(2048, "rows are cut to this many tokens when tokens are scored")
    mask_prompt: bool = setting(True, "score answers only, not the prompts before them")

    def check(self) -> None:
        """Refuse what cannot work.

        Raises
        ------
        ConfigError
            A metric is unknown, a number out of range, a template alone, an expression wrong.
        """
        for name in self.metrics:
            if name not in METRICS:
                closest = get_close_matches(name, METRICS, n=1)
                hint = f"did you mean `{closest[0]}`?" if closest else f"there are {', '.join(METRICS)}"
                message = f"`metrics` names the unknown `{name}`; {hint}"
                raise ConfigError(message)
        if not self.metrics:
            message = f"`metrics` is empty; there are {', '.join(METRICS)}"
            raise ConfigError(message)
        for name in ("limit", "max_tokens", "batch_size", "max_seq_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                message = f"`{name}` must be at least 1, not {value}"
                raise ConfigError(message)
        if (self.prompt is None) != (self.reference is None):
            given, missing = ("prompt", "reference") if self.reference is None else ("reference", "prompt")
            message = f"`{given}` is a template, so `{missing}` must be one too"
            raise ConfigError(message)
        if self.answer is not None:
            try:
                re.compile(self.answer)
            except re.error as error:
                message = f"`answer` is no regular expression: {error}"
                raise ConfigError(message) from error

    @property
    def generates(self) -> bool:
        """Whether a metric needs generated answers."""
        return any(name not in SCORED for name in self.metrics)

    def extract(self, text: str) -> str | None:
        """The answer inside a text; ``None`` where :attr:`answer` does not match."""
        if self.answer is None:
            return text.strip()
        found = re.search(self.answer, text)
        if found is None:
            return None
        # A group that took no part in the match is an empty answer.
        return (found[1] or "" if found.re.groups else found[0]).strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the data."""

    path: Path
    line: int
    """1-based."""
    values: dict[str, Any]

    def blame(self, reason: str) -> DatasetError:
        """The error that names this line."""
        return DatasetError(f"{self.path}:{self.line}: {reason}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What the model is asked, and the right answer."""

    prompt: str | list[dict[str, Any]]
    """A text, or the messages before the answer."""
    reference: str
    tools: list[dict[str, Any]] | None = None


def data_file(config: EvaluationConfig) -> Path:
    """The file that ``config.data`` means.

    Raises
    ------
    DatasetError
        There is none.
    """
    path = INSTRUCTIONS if config.data is None else Path(config.data).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        message = f"there is no folder or file {path}"
        raise DatasetError(message)
    for name in ("test.jsonl", "valid.jsonl"):
        if (path / name).is_file():
            return path / name
    message = f"{path}: no test.jsonl and no valid.jsonl to evaluate on; name a file"
    raise DatasetError(message)


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """Rows of a jsonl file, blank lines skipped.

    Raises
    ------
    DatasetError
        A line is no JSON object or endless; there are no rows; the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            rows = list(islice(_parse(path, lines), limit))
    except UnicodeDecodeError as error:
        message = f"{path}: not UTF-8 text (byte {error.start})"
        raise DatasetError(message) from error
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise DatasetError(message) from error
    if not rows:
        message = f"{path}: the file holds no rows"
        raise DatasetError(message)
    return rows


def _parse(path: Path, lines: Any) -> Iterator[Row]:
    number = 0
    while text := lines.readline(_LONGEST_LINE + 1):
        number += 1
        if len(text) > _LONGEST_LINE:
            message = f"{path}:{number}: the line is longer than {_LONGEST_LINE} characters"
            raise DatasetError(message)
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = f"{path}:{number}: invalid JSON ({error}); every line must be one whole JSON object"
            raise DatasetError(message) from error
        if not isinstance(values, dict):
            message = f"{path}:{number}: a row must be a JSON object, not {type(values).__name__}"
            raise DatasetError(message)
        yield Row(path=path, line=number, values=cast("dict[str, Any]", values))


def engine_row(config: EvaluationConfig, row: Row) -> str:
    """The row as training reads it, with the templates filled in."""
    if config.prompt is None or config.reference is None:
        return json.dumps(row.values)
    return json.dumps({"prompt": _fill(config.prompt, row), "completion": _fill(config.reference, row)})


def question(config: EvaluationConfig, row: Row) -> Question:
    """What to ask for a row.

    Raises
    ------
    DatasetError
        The row has no question and answer.
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
    """Put columns into a template; ``{{`` and ``}}`` stand for braces."""

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
