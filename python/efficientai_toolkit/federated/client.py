"""The app of a client: it trains the adapter that the server sends on its own rows."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit.exceptions import DatasetError
from efficientai_toolkit.federated import flower
from efficientai_toolkit.federated.replies import read_question, to_metrics, to_record

try:
    flower.silence()
    from flwr.app import Context, Message, RecordDict
except ImportError as error:
    raise flower.missing(error) from error

if TYPE_CHECKING:
    from efficientai_toolkit.federated.adapter import AdapterTrainer

LARGEST_SEED = 2**31


def create_client(
    trainer: "AdapterTrainer", data: Callable[[Context], Path], *, seed: int
) -> Callable[[Message, Context], Message]:
    """Return the function of a client that trains, for ``ClientApp.train`` or a grid of this process.

    Parameters
    ----------
    trainer
        Trains adapters; clients of one process share it.
    data
        Folder of the rows of the client with this context.
    seed
        Seed of the run; every client and round has one of its own, so that a resumed run repeats them.
    """

    def train(message: Message, context: Context) -> Message:
        rows = data(context)
        if not rows.exists():
            problem = f"there is no folder or file {rows}"
            raise DatasetError(problem)
        client = int(context.node_config["partition-id"])
        arrays, number = read_question(message)
        trained = trainer.train(arrays, rows, seed=seed_of(seed, client, number))
        metrics = {"num-examples": count_rows(rows), "loss": trained.loss, "train-seconds": trained.seconds}
        content = RecordDict({"arrays": to_record(trained.arrays), "metrics": to_metrics(metrics)})
        return Message(content, reply_to=message)

    return train


def seed_of(seed: int, client: int, round_number: int) -> int:
    """Return the seed of a client in a round."""
    return (seed * 1_000_003 + client * 10_007 + round_number) % LARGEST_SEED


def count_rows(data: Path) -> int:
    """Return the number of training rows in a folder, or file."""
    file = data / "train.jsonl" if data.is_dir() else data
    with file.open(encoding="utf-8") as lines:
        return sum(1 for line in lines if line.strip())
