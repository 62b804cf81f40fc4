"""Configuration of an evaluation."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from efficientai_toolkit._base.assets import INSTRUCTIONS
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.data.rows import find_validation_file
from efficientai_toolkit.evaluation.metrics import METRICS, SCORED
from efficientai_toolkit.exceptions import ConfigError, DatasetError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class EvaluationConfig(Config):
    """Configuration of a task: data, prompts and metrics."""

    data: str | None = setting(
        None,
        "jsonl file, or folder with test.jsonl or valid.jsonl (or validation.jsonl, dev.jsonl) "
        "(default: the bundled instructions)",
    )
    prompt: str | None = setting(
        None,
        "template of the prompt; {name} is a column of the row (default: the prompt of the row)",
    )
    reference: str | None = setting(
        None, "template of the reference answer (default: the completion of the row)"
    )
    answer: str | None = setting(
        None,
        "regular expression that extracts the answer from a text, such as '#### (.*)': its first group, or "
        "the whole match (default: the whole text)",
    )
    metrics: list[str] = setting(
        ["perplexity", "token_accuracy"], f"metrics to compute, among {', '.join(METRICS)}", separator=","
    )
    limit: int | None = setting(None, "number of rows to evaluate (default: all)")
    max_tokens: int = setting(128, "maximum number of new tokens per answer")
    stop: list[str] = setting([], "stop sequence; repeat the option for more")
    batch_size: int = setting(8, "batch size when tokens are scored")
    max_seq_length: int = setting(
        2048, "maximum sequence length when tokens are scored; longer rows are truncated"
    )
    mask_prompt: bool = setting(True, "score completions only, not prompts")
    accuracy: Literal["f32", "bf16", "int8"] | None = setting(
        None,
        "precision of the products of a quantized model on a CPU: f32, bf16, or int8, which quantizes "
        "activations too (default: that of the activations for scores, the fastest that hardly changes the "
        "probabilities for answers)",
    )

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a metric is unknown, a number out of range, a template missing or an expression invalid.
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
                message = f"`answer` is not a valid regular expression: {error}"
                raise ConfigError(message) from error

    @property
    def generates(self) -> bool:
        """Whether a metric needs generated answers."""
        return any(name not in SCORED for name in self.metrics)

    def extract(self, text: str) -> str | None:
        """Extract the answer from a text; return ``None`` if :attr:`answer` does not match."""
        if self.answer is None:
            return text.strip()
        found = re.search(self.answer, text)
        if found is None:
            return None
        # A group that took no part in the match is an empty answer.
        return (found[1] or "" if found.re.groups else found[0]).strip()


def find_data_file(config: EvaluationConfig) -> Path:
    """Return the data file ``config.data`` refers to.

    Raises
    ------
    DatasetError
        If there is no such file, or there are several validation files.
    """
    path = INSTRUCTIONS if config.data is None else Path(config.data).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        message = f"there is no folder or file {path}"
        raise DatasetError(message)
    if (test := path / "test.jsonl").is_file():
        return test
    if valid := find_validation_file(path):
        return valid
    message = f"{path}: no test.jsonl and no valid.jsonl to evaluate on; name a file"
    raise DatasetError(message)
