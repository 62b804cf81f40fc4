"""Which commands there are. A command's module is imported only when it runs."""

import os
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from efficientai_toolkit.cli.output import Output

PROGRAM = "efficientai-toolkit"
LORA = "lora-finetuning-mlx"


def program() -> list[str]:
    """The words a user has to type in front of a command, as they started this one."""
    # uv sets the variable for what it runs; outside of it the program may not be on the path.
    return ["uv", "run", PROGRAM] if os.environ.get("UV_RUN_RECURSION_DEPTH") else [PROGRAM]


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
    summary: str
    module: str

    def load(self) -> CommandModule:
        """Import the module that does the work."""
        return cast("CommandModule", import_module(f"efficientai_toolkit.cli.{self.module}"))


COMMANDS = (
    Command(name="info", summary="show the version, the device and its limits", module="toolkit.info"),
    Command(
        name="kernels",
        summary="measure the operations beside what the machine allows",
        module="toolkit.kernels",
    ),
    Command(
        name=f"{LORA}:train",
        summary="fine-tune a language model; without options, a small embedded one in about a minute",
        module="lora.train",
    ),
    Command(name=f"{LORA}:optimize", summary="search for the best settings of a run", module="lora.optimize"),
    Command(
        name=f"{LORA}:analyze",
        summary="find a rank for each layer, from the data, the gradients and short runs",
        module="lora.analyze",
    ),
    Command(
        name=f"{LORA}:compare",
        summary="compare LoRA, QLoRA, DoRA and full fine-tuning on your data, and recommend one",
        module="lora.compare",
    ),
    Command(
        name=f"{LORA}:generate", summary="continue a prompt, with or without adapters", module="lora.generate"
    ),
    Command(
        name=f"{LORA}:evaluate",
        summary="measure a model: perplexity, token accuracy, answers against right ones, lm-eval tasks",
        module="lora.evaluate",
    ),
    Command(
        name=f"{LORA}:validate",
        summary="check environment, model and data before a run",
        module="lora.validate",
    ),
    Command(
        name=f"{LORA}:fuse",
        summary="merge an adapter into its model, after checking that nothing is lost",
        module="lora.fuse",
    ),
    Command(
        name=f"{LORA}:convert",
        summary="write an adapter in the other format, of mlx-lm or Hugging Face PEFT",
        module="lora.convert",
    ),
    Command(
        name=f"{LORA}:info", summary="explain fine-tuning, its commands and defaults", module="lora.info"
    ),
)
