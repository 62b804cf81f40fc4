"""``federated-learning:info``: describe the namespace, its commands and defaults."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.info import explain
from efficientai_toolkit.federated import FederatedConfig

ABOUT = """\
Fine-tunes one model on the rows of many clients, which stay where they are: in each round the clients train \
a low-rank adapter on their own rows and send it, and the server makes one of them. The protocol is that of \
Flower (extra `federated`); aggregation is the engine's: means in 64 bits that hold one update at a time, \
and rules that a minority of hostile clients cannot spoil.
Models: folders in Hugging Face format or hub ids, of every type that fine-tuning loads.
Result: an adapter, with checkpoints of the rounds and a report of every client."""

_CONFIGS: dict[str, type[Config]] = {"run": FederatedConfig}
"""Configuration class of each command."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add no options beyond the common ones."""


def run(args: Namespace, out: Output) -> int:  # noqa: ARG001
    """Print the explanation."""
    explain("federated", ABOUT, _CONFIGS, out)
    return 0
