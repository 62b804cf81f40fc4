"""
Generating text.
"""

from .models import Model, Tokenizer
from _typeshed import SupportsGetItem
from numpy.typing import ArrayLike
from typing import Any, SupportsFloat, SupportsIndex, final

__all__ = ["Engine", "Sampler", "check", "defaults", "embed", "generate"]

@final
class Engine:
    """
    Continues several prompts at once; requests join and leave between steps.

    ``settings`` is the JSON of a ``SchedulerConfig``; ``accuracy`` is that of the products of a quantized model. A
    ``draft`` model proposes tokens that the model then reads at once (speculative decoding).
    """
    def __new__(cls, /, model: Model, tokenizer: Tokenizer, settings: str = "{}", accuracy: str | None = None, draft: Model | None = None) -> Engine: ...
    def add(self, /, prompt: str | SupportsGetItem[int, SupportsIndex], config: str = "{}", add_special_tokens: bool = True, adapter: str | dict[str, SupportsFloat | SupportsIndex] | None = None) -> int:
        """
        Adds a request to continue ``prompt``, a text or token ids, and returns its number.

        ``config`` is the JSON of a ``GenerateConfig``. ``add_special_tokens`` is for plain text; a
        rendered chat template holds its own. ``adapter`` is the name of a loaded adapter, or weights by name, in place of
        what is on the model; an empty mapping is the model alone.
        """
    def cancel(self, /, request: SupportsIndex) -> None:
        """
        Ends a request; the next step reports it.
        """
    def close(self, /) -> None:
        """
        Waits until the states of earlier texts are in files that are to be; later ones are kept in memory only.
        """
    @property
    def prompt_cache_bytes(self, /) -> int:
        """
        Bytes of the states of earlier texts.
        """
    @property
    def running(self, /) -> int:
        """
        Number of requests that are continued.
        """
    def step(self, /) -> str:
        """
        Continues all requests by one step and returns what is new, as a JSON list of events.
        """
    @property
    def waiting(self, /) -> int:
        """
        Number of requests that wait.
        """

@final
class Sampler:
    """
    Chooses tokens as `generate` does, from logits of any origin.

    ``config`` is the JSON of a ``GenerateConfig``.
    """
    def __new__(cls, /, config: str) -> Sampler: ...
    def sample(self, /, logits: ArrayLike, tokens: SupportsGetItem[int, SupportsIndex], prompt: SupportsIndex) -> int:
        """
        Chooses a token; ``logits`` are ``[vocab]``, and ``tokens`` holds ``prompt`` tokens of the prompt, then the
        generated ones.
        """

def check(config: str) -> None:
    """
    Checks the value of every setting of ``config``, the JSON of a ``GenerateConfig``.
    """

def defaults() -> str:
    """
    The default ``GenerateConfig`` as JSON.
    """

def embed(model: Model, tokenizer: Tokenizer, texts: SupportsGetItem[int, str | SupportsGetItem[int, SupportsIndex]], pooling: str = "mean", adapter: str | dict[str, SupportsFloat | SupportsIndex] | None = None) -> list[tuple[list[float], int]]:
    """
    Embeddings of texts or token ids: hidden states of length 1, pooled over all tokens (``mean``) or of the ``last``.

    ``adapter`` is the name of a loaded adapter, or weights by name, in place of what is on the model.

    Returns
    -------
    list
        Of each text, its embedding and its number of tokens.
    """

def generate(model: Model, tokenizer: Tokenizer, prompt: str | SupportsGetItem[int, SupportsIndex], config: str, on_text: Any | None = None, add_special_tokens: bool = True) -> str:
    """
    Continues ``prompt``, a text or token ids, and returns a JSON report; ``on_text`` receives each piece of text.

    ``config`` is the JSON of a ``GenerateConfig``. ``add_special_tokens`` is for plain text; a
    rendered chat template holds its own.
    """
