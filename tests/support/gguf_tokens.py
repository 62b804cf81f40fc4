"""SentencePiece's BPE in a few lines, and texts to cut."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np

TEXTS = (
    "Hello, world!",
    "  two  spaces   and\ttabs\n\n\nnew lines  ",
    "def f(x: int) -> int:\n    return x ** 2  # 3.14159\n",
    "Prices: 1234567890 € or $12.50, 50% off in 2024-06-01",
    "naïve café — “quoted” text… it's, we'll, I'D",
    "日本語のテキストと中文字符 한국어 العربية हिन्दी ไทย",
    "🙂👩‍👩‍👧‍👦🇫🇷 emoji 👍🏽 in a row",
    '{"key": [1, 2.5e-10, null, true], "λ": "\\u00e9"}',
    "<|im_start|>user\nHi<|im_end|>\n",
    "ALL CAPS and CamelCaseWords and snake_case_words",
    "\u200b\u00a0\ufeffinvisible\u2003spaces",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "x" + " " * 40 + "y" + "\n" * 33 + "z",
)


def join_neighbours(text: str, values: Mapping[str, Any]) -> list[int]:
    """The tokens of a text: the two neighbours of the highest score are joined, the first ones first.

    ``values`` are the metadata of a file. Special tokens and those of the user are found before.
    """
    tokens, scores = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.scores"]
    types = values["tokenizer.ggml.token_type"]
    kinds = list(zip(tokens, types, strict=True))
    whole = {token: id_ for id_, (token, kind) in enumerate(kinds) if kind in {2, 3, 4}}
    ids = {token: id_ for id_, (token, kind) in enumerate(kinds) if kind == 1}
    alternatives = sorted(whole, key=len, reverse=True)
    found = []
    for part in re.split("(" + "|".join(map(re.escape, alternatives)) + ")", text):
        found += [whole[part]] if part in whole else _join(part, ids, scores, tokens)
    return found


def _join(text: str, ids: Mapping[str, int], scores: list[float], tokens: list[str]) -> list[int]:
    pieces = list(text.replace(" ", "▁"))
    while True:
        pairs = [
            (-scores[ids[left + right]], at)
            for at, (left, right) in enumerate(pairwise(pieces))
            if left + right in ids
        ]
        if not pairs:
            break
        at = min(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    first_byte = tokens.index("<0x00>")
    found = []
    for piece in pieces:
        found += [ids[piece]] if piece in ids else [first_byte + byte for byte in piece.encode()]
    return found


def packed_numbers(stored: Mapping[str, mx.array], name: str) -> np.ndarray:
    """A tensor of a model folder as numbers, computed from codes in float32."""
    layer = name.removesuffix(".weight")
    if f"{layer}.scales" not in stored:
        return np.array(stored[name].astype(mx.float32))
    codes, scales = stored[name], stored[f"{layer}.scales"]
    biases = stored.get(f"{layer}.biases")
    if biases is None:
        values = mx.dequantize(codes, scales, group_size=32, bits=4, mode="mxfp4")
        return np.array(values.astype(mx.float32))
    bits = codes.shape[1] // scales.shape[1]
    return np.array(mx.dequantize(codes, scales.astype(mx.float32), biases.astype(mx.float32), 32, bits))
