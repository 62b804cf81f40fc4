"""Chat templates."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Tokenizer

Messages = Sequence[Mapping[str, Any]]
"""A conversation: ``[{"role": "user", "content": "…"}, …]``."""


def render_messages(
    tokenizer: "Tokenizer", messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """Apply the chat template to a conversation, with a generation prompt at the end."""
    return tokenizer.apply_chat_template(messages, tools, add_generation_prompt=True)


def format_question(tokenizer: "Tokenizer", prompt: str, *, system: str | None = None) -> str | Messages:
    """Format a user prompt as messages if the model has a chat template, else as plain text."""
    if not tokenizer.has_chat_template:
        return prompt if system is None else f"{system}\n\n{prompt}"
    opening = [] if system is None else [{"role": "system", "content": system}]
    return [*opening, {"role": "user", "content": prompt}]
