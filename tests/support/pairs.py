"""Pairs of answers to learn preferences from."""

from pathlib import Path
from typing import Any

from support.rows import random_ids, words, write_jsonl

OBJECTIVES = ("dpo", "orpo")

Row = dict[str, Any]


def random_pairs(count: int, seed: int) -> list[Row]:
    ids = random_ids(count, [16, 21, 13, 18], seed)
    return [
        {"prompt": words(i[:5]), "chosen": f" {words(i[5:9])}", "rejected": f" {words(i[9:])}"} for i in ids
    ]


def write(folder: Path, rows: list[Row], valid: list[Row] | None = None) -> Path:
    write_jsonl(folder / "train.jsonl", rows)
    write_jsonl(folder / "valid.jsonl", valid or rows)
    return folder
