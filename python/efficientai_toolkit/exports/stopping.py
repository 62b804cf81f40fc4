"""Text of tokens that arrive one at a time, up to a stop sequence."""

from typing import TYPE_CHECKING

from efficientai_toolkit.models.generation import GenerateConfig

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Tokenizer

_INCOMPLETE = "\ufffd"
"""What stands for bytes of a character whose other bytes may follow."""


class TextStream:
    """Decodes tokens, and holds text back that may be the beginning of a stop sequence."""

    def __init__(self, tokenizer: "Tokenizer", config: GenerateConfig) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._tokens: list[int] = []
        self._given = 0
        self.stopped = False
        """Whether a stop sequence was met; the text ends before it."""

    def add(self, token: int) -> str:
        """Add a token, and return the text that is final now."""
        self._tokens.append(token)
        text = self._decode().rstrip(_INCOMPLETE)
        found = [text.find(stop) for stop in self._config.stop if stop in text]
        if found:
            self.stopped = True
            return self._give(text[: min(found)])
        return self._give(text[: len(text) - self._doubtful(text)])

    def finish(self) -> str:
        """Return what was held back."""
        return self._give(self._decode())

    def _decode(self) -> str:
        return self._tokenizer.decode(self._tokens, skip_special_tokens=self._config.skip_special_tokens)

    def _doubtful(self, text: str) -> int:
        """Return the length of the end of ``text`` that may begin a stop sequence."""
        lengths = (
            length
            for stop in self._config.stop
            for length in range(min(len(stop), len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)

    def _give(self, text: str) -> str:
        piece = text[self._given :]
        self._given = max(self._given, len(text))
        return piece
