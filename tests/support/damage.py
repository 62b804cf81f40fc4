"""Ways to break a model folder. Each takes the folder and changes it in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

WEIGHTS = "model.safetensors"

Damage = Callable[[Path], None]


def removed(name: str) -> Damage:
    """Without one file."""
    return lambda folder: (folder / name).unlink()


def overwritten(name: str, content: bytes) -> Damage:
    """With other bytes in one file."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def truncated(name: str, keep: float) -> Damage:
    """With only a part of one file, as after a broken download."""

    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def header_length(length: int) -> Damage:
    """With a safetensors file that claims a header of ``length`` bytes."""

    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(length.to_bytes(8, "little") + content[8:])

    return damage


def header_entry(name: str, **changes: Any) -> Damage:
    """With other values in the header's entry of one tensor."""

    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        header[name] |= changes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[end:])

    return damage


def tensor(name: str, change: Callable[[Any], Any], file: str = WEIGHTS) -> Damage:
    """With one tensor changed; ``None`` stands for one that is not there."""

    def damage(folder: Path) -> None:
        arrays = dict(mx.load(str(folder / file)))
        mx.eval(arrays)
        changed = change(arrays.pop(name, None))
        if changed is not None:
            arrays[name] = changed
        mx.save_safetensors(str(folder / file), arrays)

    return damage


def setting(**changes: Any) -> Damage:
    """With other values in config.json; ``None`` removes a key."""

    def damage(folder: Path) -> None:
        path = folder / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return damage
