"""Log-probabilities in the forms of OpenAI's two APIs."""

from typing import TYPE_CHECKING, Any

from efficientai_toolkit.server.backend import TokenLogprob

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def decode_token(tokenizer: "Tokenizer", token: int) -> str:
    """Return the text of one token; that of half a character has a replacement character."""
    return tokenizer.decode([token], skip_special_tokens=False)


def describe_logprobs(tokenizer: "Tokenizer", logprobs: list[TokenLogprob]) -> list[dict[str, Any]]:
    """Return the entries of ``logprobs.content`` in chats."""
    return [
        {
            **_describe(tokenizer, each.id, each.logprob),
            "top_logprobs": [_describe(tokenizer, token, logprob) for token, logprob in each.top],
        }
        for each in logprobs
    ]


def _describe(tokenizer: "Tokenizer", token: int, logprob: float) -> dict[str, Any]:
    text = decode_token(tokenizer, token)
    # The bytes of half a character are not known here.
    return {"token": text, "logprob": logprob, "bytes": None if _REPLACEMENT in text else list(text.encode())}


class TextLogprobs:
    """``logprobs`` of a text completion, token by token."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._offset = 0
        self.values: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }

    def begin(self, token: int, prompt: str) -> None:
        """Add the first token of a prompt, which the tokenizer may have put before it."""
        self.add(token, None, [])
        if not prompt.startswith(self.values["tokens"][0]):
            self._offset = 0

    def add(self, token: int, logprob: float | None, top: list[tuple[int, float]]) -> None:
        """Add a token; without ``logprob`` nothing is before it."""
        text = decode_token(self._tokenizer, token)
        self.values["tokens"].append(text)
        self.values["token_logprobs"].append(logprob)
        # Different tokens may have the same text: the likelier one counts.
        best = {decode_token(self._tokenizer, each): value for each, value in reversed(top)}
        if logprob is not None and top:
            best.setdefault(text, logprob)
        self.values["top_logprobs"].append(None if logprob is None else best)
        self.values["text_offset"].append(self._offset)
        self._offset += len(text)

    def since(self, start: int) -> dict[str, list[Any]]:
        """Return the values of the tokens from ``start`` on."""
        return {name: values[start:] for name, values in self.values.items()}
