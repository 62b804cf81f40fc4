"""Files beside a graph that tell what the model is, and how its texts become tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit._base.files import write_json

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model


def write_description(folder: Path, model: "Model") -> None:
    """Write configuration, tokenizer, chat template and licence of a model into ``folder``."""
    from efficientai_toolkit._engine.core import core

    core.models.copy_description(str(model.path), str(folder))
    write_json(folder / "config.json", model.config)
