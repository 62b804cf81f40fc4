"""The text of generated tokens with special tokens, which are the marks of some dialects."""

from typing import TYPE_CHECKING

from efficientai_toolkit.server.dialects.base import count_held, find_mark

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class SpecialText:
    """Decodes tokens as they arrive, up to a stop string.

    Parameters
    ----------
    tokenizer
        Decodes.
    stops
        Strings that end the text, and are not part of it.
    """

    def __init__(self, tokenizer: "Tokenizer", stops: list[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._context: list[int] = []
        """Tokens of the last piece: decoders treat the start of a text specially."""
        self._pending: list[int] = []
        self._held = ""

    def push(self, tokens: list[int], *, is_last: bool) -> str:
        """Return the text that is certain with further tokens; all of it with the last ones."""
        if is_last and tokens and tokens[-1] in self._tokenizer.eos_token_ids:
            tokens = tokens[:-1]
        self._pending += tokens
        before = self._decode(self._context)
        text = self._decode([*self._context, *self._pending])[len(before) :]
        if is_last or not text.endswith(_REPLACEMENT):
            self._held += text
            self._context, self._pending = self._pending or self._context, []
        stop = find_mark(self._held, self._stops)
        if stop is not None:
            ready = stop[0]
        else:
            ready = len(self._held) - (0 if is_last else count_held(self._held, self._stops))
        text, self._held = self._held[:ready], self._held[ready:]
        return text

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False) if ids else ""
