"""The clients of a run in this process: honest ones, those that vanish, and those that attack."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from efficientai_toolkit.federated import flower
from efficientai_toolkit.federated.attacks import Attackers
from efficientai_toolkit.federated.client import create_client
from efficientai_toolkit.federated.replies import from_record, read_question, to_record

try:
    flower.silence()
    from flwr.app import Context, Message, RecordDict
except ImportError as error:
    raise flower.missing(error) from error

if TYPE_CHECKING:
    from efficientai_toolkit.federated.adapter import AdapterTrainer
    from efficientai_toolkit.federated.config import FederatedConfig
    from efficientai_toolkit.federated.grid import ClientFunction
    from efficientai_toolkit.federated.shares import Shares


class VanishedError(RuntimeError):
    """A client that was switched off within a round."""


def build_client(config: "FederatedConfig", trainer: "AdapterTrainer", shares: "Shares") -> "ClientFunction":
    """Return the function of all clients of a configuration."""

    def find(context: Context) -> Path:
        return shares.clients[int(context.node_config["partition-id"])]

    client = create_client(trainer, find, seed=config.seed)
    if config.attackers and config.attack != "none":
        first = config.clients - config.attackers
        client = attack(
            client, Attackers(kind=config.attack, scale=config.attack_scale, seed=config.seed), first
        )
    return drop(client, config.dropout, config.seed) if config.dropout else client


def drop(client: "ClientFunction", share: float, seed: int) -> "ClientFunction":
    """Let a client vanish in a round with the probability ``share``."""

    def train(message: Message, context: Context) -> Message:
        _, number = read_question(message)
        if np.random.default_rng([seed, context.node_id, number]).random() < share:
            problem = "the client vanished"
            raise VanishedError(problem)
        return client(message, context)

    return train


def attack(client: "ClientFunction", attackers: Attackers, first: int) -> "ClientFunction":
    """Let clients from number ``first`` on send what ``attackers`` make of their updates."""

    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        reply = client(message, context)
        name = next(iter(reply.content.array_records))
        base, round_number = read_question(message)
        sent = from_record(reply.content.array_records[name])
        change = {key: sent[key] - array for key, array in base.items()}
        if number < first:
            attackers.watch(change, round_number)
            return reply
        spoilt = attackers.change(change, number, round_number)
        arrays = to_record({key: array + spoilt[key] for key, array in base.items()})
        return Message(RecordDict({**reply.content, name: arrays}), reply_to=message)

    return train
