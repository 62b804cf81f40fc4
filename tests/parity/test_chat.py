"""Text, ids and chat templates against transformers, on a byte-level BPE tokenizer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from efficientai_toolkit import _core
from efficientai_toolkit.exceptions import ToolkitError
from support.engine import FIXTURES, MODELS

EXPECTED = json.loads((FIXTURES / "chat.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _core.models.load(str(MODELS / "chat"), None, None)[1]


def test_the_tokenizer_is_described(tokenizer: Any) -> None:
    assert tokenizer.vocab_size == EXPECTED["vocab_size"]
    assert tokenizer.eos_token_ids == EXPECTED["eos_token_ids"]
    assert tokenizer.has_chat_template


@pytest.mark.parametrize("case", EXPECTED["texts"], ids=lambda case: repr(case["text"][:12]))
def test_text_and_back(tokenizer: Any, case: dict[str, Any]) -> None:
    assert tokenizer.encode(case["text"]) == case["ids"]
    assert tokenizer.decode(case["ids"], False) == case["whole"]
    assert tokenizer.decode(case["ids"], True) == case["plain"]


@pytest.mark.parametrize("number", range(len(EXPECTED["conversations"])))
def test_conversation(tokenizer: Any, number: int) -> None:
    case = EXPECTED["conversations"][number]
    tools = case["tools"] or None
    text = tokenizer.apply_chat_template(case["messages"], tools, case["add_generation_prompt"])
    assert text == case["text"]
    assert tokenizer.encode(text, False) == case["ids"]


def test_the_template_may_refuse(tokenizer: Any) -> None:
    messages = [{"role": "crowd", "content": "hear, hear"}]
    with pytest.raises(ToolkitError, match="nobody is called crowd"):
        tokenizer.apply_chat_template(messages, None, False)
