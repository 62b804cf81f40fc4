"""What the model card of a checkpoint says about licence and origin."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit._base.parsing import parse_text

_MAX_BYTES = 1 << 20
"""Largest card that is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Facts from the header of a ``README.md``, as on the Hugging Face hub."""

    name: str
    """Name of the model: that of its folder if the card has none."""
    license: str | None = None
    """Identifier of the licence, such as ``apache-2.0``."""
    license_name: str | None = None
    """Name of a licence without identifier."""
    license_link: str | None = None
    """Address of the licence."""
    base_models: list[str] = field(default_factory=list[str])
    """Hub ids of the models that this one was made from."""
    tags: list[str] = field(default_factory=list[str])
    """Tags of the hub."""
    languages: list[str] = field(default_factory=list[str])
    """Codes of languages."""

    def to_json(self) -> str:
        """Return the card for the engine."""
        return json.dumps(asdict(self))


def read_card(folder: Path) -> Card:
    """Read the card of a model; a missing or damaged one says nothing."""
    keys = _read_header(folder / "README.md")
    texts = {
        name: str(keys[name])
        for name in ("license", "license_name", "license_link")
        if isinstance(keys.get(name), str)
    }
    return Card(
        name=str(keys.get("model_name") or folder.resolve().name),
        base_models=_list(keys.get("base_model")),
        tags=_list(keys.get("tags")),
        languages=_list(keys.get("language")),
        **texts,
    )


def _read_header(path: Path) -> dict[str, Any]:
    """Return the YAML between the first two lines of dashes."""
    try:
        with path.open(encoding="utf-8") as file:
            before, *parts = file.read(_MAX_BYTES).split("---\n", 2)
        found: object = parse_text(parts[0], ".yaml") if not before.strip() and parts else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _list(value: object) -> list[str]:
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)]
