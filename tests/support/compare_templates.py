"""Compares renderings with those of transformers: ``python tests/support/compare_templates.py FOLDER``.

Every ``*.jinja`` of the folder renders every conversation of `support.templates`, with and without a
generation prompt.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from efficientai_toolkit._chat_templates.worker import render
from support.templates import CONVERSATIONS, Conversation

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def expected(source: str, conversation: Conversation, *, prompt: bool) -> str | None:
    """The text of transformers; ``None`` if it refuses."""
    messages = [
        {key: value for key, value in message.items() if value is not None}
        for message in conversation["messages"]
    ]
    options = TOKENS | conversation.get("chat_template_kwargs", {})
    try:
        texts, _ = render_jinja_template(
            [messages], conversation.get("tools"), None, source, add_generation_prompt=prompt, **options
        )
    except Exception:  # noqa: BLE001 (whatever a template raises)
        return None
    return str(texts[0])


def rendered(source: str, conversation: Conversation, *, prompt: bool) -> str | None:
    """Our text; ``None`` if it is refused."""
    request: dict[str, Any] = {
        "messages": conversation["messages"],
        "tools": conversation.get("tools"),
        "variables": conversation.get("chat_template_kwargs", {}),
        "renderings": [(len(conversation["messages"]), prompt)],
    }
    # As it comes through the pipe.
    (result,) = render({"default": source}, TOKENS, json.loads(json.dumps(request)))
    text: str | None = result.get("text")
    return text


def main() -> int:
    """Print each difference and how many renderings were compared."""
    counts: Counter[str] = Counter()
    for path in sorted(Path(sys.argv[1]).rglob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for name, conversation in CONVERSATIONS.items():
            for prompt in (False, True):
                theirs, ours = (make(source, conversation, prompt=prompt) for make in (expected, rendered))
                kind = "different" if theirs != ours else "refused by both" if ours is None else "equal"
                counts[kind] += 1
                if theirs != ours:
                    sys.stdout.write(
                        f"{path.name}, {name}, add_generation_prompt={prompt}: {theirs!r} is {ours!r}\n"
                    )
    sys.stdout.write(f"{counts.total()} renderings: {dict(counts)}\n")
    return int(counts["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
