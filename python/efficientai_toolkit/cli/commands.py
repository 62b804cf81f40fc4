"""Registry of commands. The module of a command is imported only when it runs."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from efficientai_toolkit.cli.output import Output

PROGRAM = "efficientai-toolkit"

NAMESPACES = {
    "": "toolkit",
    "serve": "serve",
    "jobs": "jobs",
    "registry": "registry",
    "benchmark": "benchmark",
    "tracking": "tracking",
    "lora-finetuning-mlx": "lora",
    "quantized-model-benchmarks": "quantize",
    "cpu-model-compression": "compress",
    "multimodal-clip-finetuning": "clip",
    "federated-learning": "federated",
}
"""Folder of each namespace; toolkit-wide commands have no namespace.

``COMMANDS`` in the folder's ``commands.py`` maps each command to its summary. The module named like the
command implements it."""


class CommandModule(Protocol):
    """Interface of a command's module."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options to ``parser``."""

    def run(self, args: Namespace, out: Output) -> int:
        """Run the command and return the exit code."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command as listed by ``--help``."""

    name: str
    """Full name including the namespace."""
    summary: str
    module: str

    def load(self) -> CommandModule:
        """Import the module that implements the command."""
        return cast("CommandModule", import_module(self.module))


def _list() -> Iterator[Command]:
    for namespace, folder in NAMESPACES.items():
        package = f"{__package__}.{folder}"
        summaries: dict[str, str] = import_module(f"{package}.commands").COMMANDS
        for name, summary in summaries.items():
            yield Command(name=_join(namespace, name), summary=summary, module=f"{package}.{name}")


def _join(namespace: str, name: str) -> str:
    return f"{namespace}:{name}" if namespace else name


COMMANDS = tuple(_list())
"""All commands in the order of ``--help``."""


def find_namespace(folder: str) -> str:
    """Return the namespace that belongs to ``folder``."""
    return next(namespace for namespace, known in NAMESPACES.items() if known == folder)


def build_program() -> list[str]:
    """Return the words that start the program, as the user typed them."""
    # uv sets the variable for what it runs; outside of it the program may not be on the path.
    return ["uv", "run", PROGRAM] if os.environ.get("UV_RUN_RECURSION_DEPTH") else [PROGRAM]


def build_command(folder: str, name: str) -> list[str]:
    """Return the command line of command ``name`` in ``folder``, without options."""
    return [*build_program(), _join(find_namespace(folder), name)]
