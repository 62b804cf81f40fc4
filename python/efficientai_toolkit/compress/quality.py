"""What the quality of models is measured on."""

from dataclasses import dataclass
from pathlib import Path

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.evaluation.items import read_items
from efficientai_toolkit.evaluation.text import find_text
from efficientai_toolkit.exceptions import ConfigError, DatasetError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class QualityConfig(Config):
    """What models are measured on."""

    heldout: str | None = setting(
        None,
        "held-out text for perplexity and divergence: a jsonl file, or a folder with test.jsonl or "
        "valid.jsonl (default: the bundled instructions)",
    )
    sequences: int = setting(64, "maximum number of sequences of held-out text")
    length: int = setting(256, "tokens per sequence of held-out text")
    task: str | None = setting(
        None,
        "jsonl file of questions for a paired test of the answers: rows with prompt, choices and answer "
        "(place of the right one), or with prompt and completion",
    )
    items: int = setting(1000, "maximum number of questions")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a number is out of range.
        """
        for name, least in (("sequences", 1), ("length", 2), ("items", 1)):
            if getattr(self, name) < least:
                message = f"`{name}` must be at least {least}, not {getattr(self, name)}"
                raise ConfigError(message)

    def check_texts(self) -> None:
        """Check that the texts can be read.

        Raises
        ------
        DatasetError
            If one does not exist or cannot be used.
        """
        find_text(self.heldout)
        if self.task is not None:
            path = Path(self.task).expanduser()
            if not path.is_file():
                message = f"there is no file {path}, which `task` names"
                raise DatasetError(message)
            read_items(path, self.items)
