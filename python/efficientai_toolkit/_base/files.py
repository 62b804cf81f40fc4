"""Files that readers never see half-written."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file at once: readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
