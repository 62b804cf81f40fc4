"""A Swift package around a program."""

import shutil
from pathlib import Path

RESOURCES = Path("Sources") / "LanguageModel" / "Resources"
"""Where the program and the files of the tokenizer lie."""

_TEMPLATE = Path(__file__).with_name("template")


def write(folder: Path) -> None:
    """Write everything but the resources."""
    shutil.copytree(_TEMPLATE, folder, dirs_exist_ok=True)
