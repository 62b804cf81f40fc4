"""Reasoning at the beginning of an answer, in ``<think>…</think>`` or ``[THINK]…[/THINK]``."""

from efficientai_toolkit.server.dialects.base import Delta, Parser, Reasoning, count_held, find_mark

_MARKS = {"<think>": "</think>", "[THINK]": "[/THINK]"}


def ends_with_reasoning(prompt: str) -> str | None:
    """Return the mark that ends the reasoning which a chat template began, if ``prompt`` ends with one."""
    stripped = prompt.rstrip()
    return next((end for begin, end in _MARKS.items() if stripped.endswith(begin)), None)


class ReasoningParser:
    """Splits the reasoning off; the rest goes to another parser.

    Parameters
    ----------
    inner
        Parser of what follows.
    end
        Mark that ends the reasoning, if the text begins inside of it.
    """

    def __init__(self, inner: Parser, end: str | None = None) -> None:
        self._inner = inner
        self._end = end
        self._held = ""
        self._is_over = False
        self._is_first = True

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain after another piece."""
        if self._is_over:
            return self._answer(text)
        self._held += text
        if self._end is None:
            start = self._held.lstrip()
            begin = next((mark for mark in _MARKS if start.startswith(mark)), None)
            if begin is None:
                if any(mark.startswith(start) for mark in _MARKS):
                    return []
                self._is_over, self._is_first = True, False
                return self._inner.feed(self._take(len(self._held)))
            self._end = _MARKS[begin]
            self._held = start.removeprefix(begin)
        return self._reason(self._end)

    def finish(self) -> list[Delta]:
        """Return the rest; without an end everything was reasoning."""
        rest: list[Delta] = []
        if not self._is_over:
            rest = self._think(self._held.rstrip()) if self._end is not None else self._inner.feed(self._held)
        return [*rest, *self._inner.finish()]

    def _reason(self, end: str) -> list[Delta]:
        if (found := find_mark(self._held, [end])) is not None:
            deltas = self._think(self._take(found[0]).rstrip())
            self._take(len(end))
            self._is_over, self._is_first = True, True
            return [*deltas, *self._answer(self._take(len(self._held)))]
        ready = len(self._held) - count_held(self._held, [end])
        # White space before the mark is not part of it.
        ready = len(self._held[:ready].rstrip())
        return self._think(self._take(ready))

    def _think(self, text: str) -> list[Delta]:
        if self._is_first:
            text = text.lstrip()
        if not text:
            return []
        self._is_first = False
        return [Reasoning(text)]

    def _answer(self, text: str) -> list[Delta]:
        if self._is_first:
            text = text.lstrip()
        if not text:
            return []
        self._is_first = False
        return self._inner.feed(text)

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        return taken
