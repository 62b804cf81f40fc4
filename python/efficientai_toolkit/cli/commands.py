"""Which commands there are. A command's module is imported only when it runs."""

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
    "lora-finetuning-mlx": "lora",
}
"""The folder of each namespace; commands about the toolkit as a whole have none. ``COMMANDS`` in its
``commands.py``
has a summary for each command, and the module of the command's name does the work."""


class CommandModule(Protocol):
    """What the module of a command has."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""

    def run(self, args: Namespace, out: Output) -> int:
        """Do the work; the result is the exit code."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One line of the overview."""

    name: str
    """As a user types it, with its namespace."""
    summary: str
    module: str

    def load(self) -> CommandModule:
        """Import the module that does the work."""
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
"""Every command, in the order of the overview."""


def find_namespace(folder: str) -> str:
    """The namespace whose commands lie in ``folder``."""
    return next(namespace for namespace, known in NAMESPACES.items() if known == folder)


def build_program() -> list[str]:
    """The words a user has to type in front of a command, as they started this one."""
    # uv sets the variable for what it runs; outside of it the program may not be on the path.
    return ["uv", "run", PROGRAM] if os.environ.get("UV_RUN_RECURSION_DEPTH") else [PROGRAM]


def build_command(folder: str, name: str) -> list[str]:
    """The words a user has to type for the command ``name`` of ``folder``, without its options."""
    return [*build_program(), _join(find_namespace(folder), name)]
