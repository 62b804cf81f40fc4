"""Text with special tokens, up to stop strings, however tokens arrive."""

from typing import Any

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.server.special_tokens import SpecialText


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    _, found = eat.load()
    return found


def decoded(tokenizer: Any, ids: list[int], stops: list[str], size: int) -> str:
    special = SpecialText(tokenizer, stops)
    steps = [ids[at : at + size] for at in range(0, len(ids), size)]
    return "".join(special.push(step, is_last=step is steps[-1]) for step in steps)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_pieces_add_up(tokenizer: Any, size: int) -> None:
    text = "To be, é 漢字 🙂!"
    ids = tokenizer.encode(text, add_special_tokens=False)
    marked = [*ids, tokenizer.eos_token_id, *ids]
    assert decoded(tokenizer, marked, [], size) == f"{text}<|endoftext|>{text}"
    assert decoded(tokenizer, [*ids, tokenizer.eos_token_id], [], size) == text
    assert decoded(tokenizer, marked, ["漢字"], size) == "To be, é "
    assert decoded(tokenizer, marked, ["<|endoftext|>T", "🙂?"], size) == text
    # What was the beginning of a stop string comes in the end.
    assert decoded(tokenizer, ids, ["!!"], size) == text


def test_half_a_character_at_the_end(tokenizer: Any) -> None:
    ids = tokenizer.encode("🙂", add_special_tokens=False)
    assert len(ids) > 1
    special = SpecialText(tokenizer, [])
    assert special.push(ids[:1], is_last=False) == ""
    assert special.push([], is_last=True) == tokenizer.decode(ids[:1])
