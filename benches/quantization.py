"""Quantization: seconds it takes, and how close the result stays to the original model on held-out text.

uv run --group dev efficientai-toolkit benchmark run benches/quantization.py --set technique=awq
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import harness
import shapes

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Tokenizer
    from efficientai_toolkit.benchmark import Case

KNOWN = ("ours", "mlx-lm", "mlx-lm-accelerated")
TECHNIQUES = ("gptq", "awq", "learned")
MEASURES = ("seconds", "cpu_seconds", "perplexity", "mean_kl")


def cases(
    *,
    technique: str = "gptq",
    model: str = str(MODEL),
    calibration: str = str(INSTRUCTIONS / "train.jsonl"),
    held_out: str = str(INSTRUCTIONS / "test.jsonl"),
    sizes: str = "8x512",
    scored: str = "32x256",
    contestants: str = ",".join(KNOWN),
    bits: int = 4,
    group_size: int = 64,
    embedding_bits: int = 8,
    start: str = "rtn",
    epochs: int = 2,
    learning_rate: float = 1e-6,
    seed: int = 0,
    cache: str | None = None,
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield the cases of a technique: `gptq`, `awq`, or `learned`, which mlx-lm calls DWQ.

    `model` is a folder; `sizes` are SEQUENCESxLENGTH of the calibration text, separated by commas, and
    `scored` is that of the held-out text. Of `learned`, `start` is how ours rounds first, and
    `learning_rate` is mlx-lm's, by default its own; both learn for `epochs` over the same sequences.
    """
    if technique not in TECHNIQUES:
        message = f"technique {technique!r} is none of {', '.join(TECHNIQUES)}"
        raise ValueError(message)
    turns = harness.parse_contestants(contestants, KNOWN)
    folder = Path(cache) if cache else shapes.default_cache()
    jobs: dict[str, dict[harness.Contestant, harness.Job]] = {}
    for size in sizes.split(","):
        sequences, length = numbers(size)
        if technique == "learned" and sequences < 8:
            message = f"the size {size}: every eighth sequence is for validation, so learned needs at least 8"
            raise ValueError(message)
        data = {"calibration": (Path(calibration), size), "held_out": (Path(held_out), scored)}
        job: harness.Job = {
            "task": "quantize",
            "technique": technique,
            "checkpoint": model,
            "text": str(tokens(Path(model), data, seed, folder)),
            "sequences": sequences,
            "length": length,
            "bits": bits,
            "group_size": group_size,
            "embedding_bits": embedding_bits,
            "start": start,
            "epochs": epochs,
            "batch": 1,
            "lr": learning_rate,
            "seed": seed,
            "evaluator": sys.executable,
        }
        title = f"{technique} {Path(model).name} {bits} bits {size}"
        jobs[title] = dict.fromkeys(turns, job)
    return harness.cases(jobs, MEASURES, higher_is_better=(), same=same, python=python, threads=threads)


def same(_: harness.Contestant) -> dict[str, float]:
    """Give what tells who stored another number of bits, or was measured against something else."""
    return {"size_bytes": 0.01, "reference_perplexity": 1e-6}


def numbers(size: str) -> tuple[int, int]:
    """Take SEQUENCESxLENGTH apart."""
    sequences, length = (int(number) for number in size.split("x"))
    return sequences, length


def tokens(model: Path, data: Mapping[str, tuple[Path, str]], seed: int, cache: Path) -> Path:
    """Give a folder with the same tokens for everyone.

    `data` are the files and sizes of `calibration` and `held_out`, of which `NAME.json` holds the sequences.
    The first tokens of `calibration.jsonl` are those of `calibration.json`; it has one row, so that the order
    of rows is everyone's.
    """

    def make(folder: Path) -> None:
        from efficientai_toolkit import load
        from efficientai_toolkit.evaluation.text import read_sequences

        _, tokenizer = load(model, dtype="auto")
        text = folder / "calibration.jsonl"
        source, size = data["calibration"]
        chosen = choose(source, math.prod(numbers(size)), seed, tokenizer)
        text.write_text(json.dumps({"text": chosen}) + "\n", encoding="utf-8")
        for name, (file, of) in {**data, "calibration": (text, size)}.items():
            count, length = numbers(of)
            sequences = read_sequences(tokenizer, str(file), count=count, length=length)
            if file == text and len(sequences) < count:
                message = (
                    f"{source} has text for {len(sequences)} sequences of {length} tokens, not for {count}"
                )
                raise ValueError(message)
            shapes.write_json(folder / f"{name}.json", sequences)

    files = [model / "tokenizer.json", *(file for file, _ in data.values())]
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(repr((stamps, [size for _, size in data.values()], seed)).encode()).hexdigest()[:16]
    return shapes.made_once(cache / "quantization" / key, make)


def choose(source: Path, count: int, seed: int, tokenizer: Tokenizer) -> str:
    """Join rows in random order until they have `count` tokens, or there are no more."""
    from efficientai_toolkit.data.rows import read_rows

    texts = [text_of(row.values) for row in read_rows(source)]
    random.Random(seed).shuffle(texts)
    chosen: list[str] = []
    while texts and len(tokenizer.encode("\n\n".join(chosen))) < count:
        # No token is shorter than a byte.
        missing = count
        while texts and missing > 0:
            chosen.append(texts.pop())
            missing -= len(chosen[-1].encode())
    return "\n\n".join(chosen)


def text_of(values: Mapping[str, str]) -> str:
    """Give the text of a row with `text`, or with `prompt` and `completion`."""
    return values["text"] if "text" in values else values["prompt"] + values["completion"]
