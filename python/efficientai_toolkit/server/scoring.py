"""Log-probabilities of the tokens of a prompt."""

from typing import TYPE_CHECKING

import numpy as np

from efficientai_toolkit.server.backend import LOWEST, TokenLogprob
from efficientai_toolkit.server.errors import ApiError
from efficientai_toolkit.server.pool import Lease

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model

_MAX_LOGITS = 1 << 29
"""Most logits that are computed for one prompt: 2 GiB."""

_ROWS = 64
"""Positions whose probabilities are computed at once."""


async def score_prompt(lease: Lease, prompt: list[int], count: int) -> list[TokenLogprob]:
    """Return the log-probabilities of all tokens but the first, with the ``count`` likeliest of each.

    Raises
    ------
    ApiError
        If alternatives are asked for of a prompt that is too long.
    """
    if len(prompt) == 1:
        return []
    model = lease.version.model
    if not count:
        return await lease.version.engine.call(lambda: _score(model, prompt), adapter=lease.adapter)
    vocabulary = lease.version.vocabulary
    if len(prompt) * vocabulary > _MAX_LOGITS:
        message = (
            f"alternatives of prompt tokens are limited to prompts of {_MAX_LOGITS // vocabulary} tokens "
            "with this model; `logprobs` 0 has no limit"
        )
        raise ApiError(message, param="logprobs")
    return await lease.version.engine.call(
        lambda: _score_with_top(model, prompt, count), adapter=lease.adapter
    )


def _score(model: "Model", prompt: list[int]) -> list[TokenLogprob]:
    from efficientai_toolkit._engine.core import core

    [scores] = core.evaluate.score_tokens(model, [(prompt, 1)], 1)
    return [
        TokenLogprob(id=token, logprob=max(logprob, LOWEST), top=[])
        for token, (logprob, _) in zip(prompt[1:], scores, strict=True)
    ]


def _score_with_top(model: "Model", prompt: list[int], count: int) -> list[TokenLogprob]:
    logits = model(np.array([prompt]))[0, :-1]
    found: list[TokenLogprob] = []
    for start in range(0, len(logits), _ROWS):
        rows = logits[start : start + _ROWS].astype(np.float64)
        rows -= rows.max(-1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(-1, keepdims=True))
        best = np.argsort(-rows, axis=-1, kind="stable")[:, :count]
        for row, top, token in zip(rows, best, prompt[start + 1 :], strict=False):
            found.append(
                TokenLogprob(
                    id=token,
                    logprob=max(float(row[token]), LOWEST),
                    top=[(int(each), max(float(row[each]), LOWEST)) for each in top],
                )
            )
    return found
