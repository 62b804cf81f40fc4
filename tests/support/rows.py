"""Training data in words: the fixture models read ``t17`` as id 17 and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

FIRST_WORD = 3
EOS = 1


def words(ids: Iterable[int]) -> str:
    """The text that stands for ``ids``; end-of-text is added by whoever reads the row."""
    return " ".join(f"t{i}" for i in ids)


def ids_of(text: str) -> list[int]:
    """The inverse of :func:`words`."""
    return [int(word.removeprefix("t")) for word in text.split()]


def random_ids(count: int, lengths: Sequence[int], seed: int, vocab_size: int = 256) -> list[list[int]]:
    """``count`` rows of ordinary words whose lengths repeat ``lengths``."""
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_WORD, vocab_size, lengths[i % len(lengths)]).tolist() for i in range(count)]


def write_jsonl(path: Path, rows: Iterable[object]) -> Path:
    """One JSON value per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_words(folder: Path, train: Iterable[Iterable[int]], valid: Iterable[Iterable[int]] = ()) -> Path:
    """A data folder of ``{"text"}`` rows; validation repeats the first row of training if not given."""
    train = [list(ids) for ids in train]
    valid = [list(ids) for ids in valid] or train[:1]
    write_jsonl(folder / "train.jsonl", [{"text": words(ids)} for ids in train])
    write_jsonl(folder / "valid.jsonl", [{"text": words(ids)} for ids in valid])
    return folder
