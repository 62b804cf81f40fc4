"""Checks of the settings and data of a fine-tuning, before it begins."""

import csv
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.callbacks.training import describe_memory
from efficientai_toolkit.data.rows import read_rows
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.trainer import MLXTrainer
from efficientai_toolkit.models.loading import load
from efficientai_toolkit.study.job import Emit

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

_ROWS = 5
"""Rows that are shown as the model sees them."""

_STAGES = 3


def validate(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Return statistics of each split, the first rows with their target tokens, and the memory needed."""
    [settings] = request["configs"]
    config = TrainingConfig(**settings).with_defaults_filled()

    def tell(stage: str, done: int) -> None:
        emit({"event": "progress", "stage": stage, "done": done, "total": _STAGES})

    tell("model", 0)
    model, tokenizer = load(
        config.model_path,
        dtype=config.dtype,
        bits=config.bits,
        chat_template_kwargs=config.chat_template_kwargs,
        show_progress=False,
    )
    tell("data", 1)
    statistics = _read(model, tokenizer, config)
    examples = _read_examples(model, tokenizer, config) or [statistics["train"]["example"]]
    tell("memory", 2)
    memory, reason = None, None
    try:
        estimate = MLXTrainer(config, model=model, tokenizer=tokenizer).estimate_memory()
        memory = asdict(estimate) | {"summary": describe_memory(estimate)}
    except ToolkitError as error:
        reason = " ".join(str(error).split())
    return {"splits": statistics, "examples": examples, "memory": memory, "memory_error": reason}


def _read(model: "Model", tokenizer: "Tokenizer", config: TrainingConfig) -> dict[str, dict[str, Any]]:
    from efficientai_toolkit._engine.core import core

    statistics: dict[str, dict[str, Any]] = json.loads(core.lora.validate(model, tokenizer, config.to_json()))
    return statistics


def _read_examples(
    model: "Model", tokenizer: "Tokenizer", config: TrainingConfig
) -> list[list[dict[str, Any]]]:
    """Return the first rows as parts that are learned or not; the engine describes one row of a file."""
    path = config.data_paths()[0]
    file = path / "train.jsonl" if path.is_dir() else path
    examples: list[list[dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(islice(_list_rows(file), _ROWS)):
            single = Path(folder) / f"{number}.jsonl"
            single.write_text(json.dumps(row) + "\n", encoding="utf-8")
            try:
                found = _read(model, tokenizer, replace(config, data=str(single), streaming=False))
            except ToolkitError:
                # Such as a row that is too long to have target tokens.
                continue
            examples.append(found["train"]["example"])
    return examples


def _list_rows(file: Path) -> Iterator[dict[str, Any]]:
    match file.suffix.lower():
        case ".jsonl":
            yield from (row.values for row in read_rows(file, _ROWS))
        case ".csv" | ".tsv" as ending:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                yield from csv.DictReader(lines, delimiter="\t" if ending == ".tsv" else ",")
        case _:
            # Formats that only the engine reads.
            return
