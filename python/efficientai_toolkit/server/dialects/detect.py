"""Which dialect a model writes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit.server.dialects.base import Dialect
from efficientai_toolkit.server.dialects.harmony import Harmony
from efficientai_toolkit.server.dialects.hermes import Hermes
from efficientai_toolkit.server.dialects.lfm2 import Lfm2
from efficientai_toolkit.server.dialects.llama import Llama
from efficientai_toolkit.server.dialects.mistral import Mistral

if TYPE_CHECKING:
    from efficientai_toolkit.server.config import DialectName

_MARKS = {
    "<|channel|>": "harmony",
    "[TOOL_CALLS]": "mistral",
    "<|tool_call_start|>": "lfm2",
    "<|tool_list_start|>": "lfm2",
    "<tool_call>": "hermes",
    "<|python_tag|>": "llama",
}
"""What only the chat templates of a dialect hold, the surest first."""

_FAMILIES = {
    "gpt_oss": "harmony",
    "mistral": "mistral",
    "mixtral": "mistral",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2",
}


def detect_dialect(path: Path, model_type: str, choice: "DialectName | None" = None) -> Dialect:
    """Return the dialect of the model at ``path``: ``choice``, or what its chat template tells."""
    template = _read_templates(path)
    told = next((name for mark, name in _MARKS.items() if mark in template), None)
    match choice or told or _FAMILIES.get(model_type):
        case "harmony":
            return Harmony()
        case "mistral":
            return Mistral(has_args="[ARGS]" in template)
        case "lfm2":
            return Lfm2()
        case "llama":
            return Llama()
        case _:
            return Hermes()


def _read_templates(path: Path) -> str:
    """Return the texts of all chat templates of a folder or GGUF file, one after the other."""
    if path.is_file():
        from efficientai_toolkit._engine.core import core

        found = json.loads(core.models.describe_gguf(path))
        return json.dumps(found["tokenizer_config"].get("chat_template"), ensure_ascii=False)
    files = [path / "chat_template.jinja", *sorted(path.glob("additional_chat_templates/*.jinja"))]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
    for name in ("tokenizer_config.json", "chat_template.json"):
        try:
            found = json.loads((path / name).read_text(encoding="utf-8"))
            texts.append(json.dumps(found.get("chat_template"), ensure_ascii=False))
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
    return "\n".join(texts)
