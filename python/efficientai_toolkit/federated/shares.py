"""The rows of each client, in folders of their own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efficientai_toolkit._base.files import write_text
from efficientai_toolkit.data.rows import Row, find_validation_file, read_rows
from efficientai_toolkit.exceptions import DatasetError
from efficientai_toolkit.federated.config import FederatedConfig
from efficientai_toolkit.federated.splitting import partition, read_labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Data of a run."""

    clients: list[Path]
    """Folder of each client's rows, as training takes them."""
    sizes: list[int]
    """Rows of each client."""
    topics: list[int]
    """Topics of each client."""
    everything: Path
    """Folder with the rows of all."""
    validation: Path | None
    """File that the global model is evaluated on after each round."""
    test: Path | None
    """File of the final comparison; the validation file if there is no other."""


def write_shares(config: FederatedConfig, folder: Path) -> Shares:
    """Divide the training rows and write them to folders below ``folder``.

    Raises
    ------
    ConfigError
        If there are too few rows for the clients.
    DatasetError
        If a file is missing or has a row that is none.
    """
    data = Path(str(config.data))
    train = data / "train.jsonl" if data.is_dir() else data
    if train.suffix != ".jsonl" or not train.is_file():
        message = f"{train}: expected a .jsonl file, or a folder with train.jsonl"
        raise DatasetError(message)
    rows = read_rows(train)
    labels = read_labels([row.values for row in rows], config.label_column, seed=config.seed)
    numbers = partition(
        labels,
        config.clients,
        kind=config.partition,
        alpha=config.alpha,
        labels_per_client=config.labels_per_client,
        min_rows=config.min_rows,
        seed=config.seed,
    )
    clients = [
        _write(folder / f"client-{number:03}", [rows[place] for place in places])
        for number, places in enumerate(numbers)
    ]
    validation = find_validation_file(data) if data.is_dir() else None
    test = data / "test.jsonl" if data.is_dir() and (data / "test.jsonl").is_file() else validation
    return Shares(
        clients=clients,
        sizes=[len(places) for places in numbers],
        topics=[len({labels[place] for place in places}) for places in numbers],
        everything=_write(folder / "all", rows),
        validation=validation,
        test=test,
    )


def _write(folder: Path, rows: Sequence[Row]) -> Path:
    lines = [json.dumps(row.values, ensure_ascii=False) + "\n" for row in rows]
    write_text(folder / "train.jsonl", "".join(lines))
    # Without a file training would take some of the few rows for its validation.
    write_text(folder / "valid.jsonl", lines[0])
    return folder
