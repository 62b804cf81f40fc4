"""Tokenizers of GGUF files: byte-level BPE by its rule of words, SentencePiece's BPE by its scores."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ModelLoadingError
from support.gguf_files import (
    byte_alphabet,
    family_config,
    random_weights,
    sentencepiece,
    sentencepiece_tokens,
    write_gguf,
)
from support.gguf_tokens import TEXTS, join_neighbours

if TYPE_CHECKING:
    import gguf

SIZE = 320


def tokenizer_of(folder: Path, write: Any, family: str = "llama") -> Any:
    """The tokenizer of a small file."""
    config = family_config(family)
    path = folder / "m.gguf"
    write_gguf(path, family, config, random_weights(folder / "original", config), tokenizer=write)
    return eat.load(path)[1]


def byte_level(pre: str | None, merges: list[str], **changes: Any) -> Any:
    """Writes three special tokens, the bytes and what ``merges`` make."""

    def write(writer: gguf.GGUFWriter) -> None:
        tokens = [
            "<s>",
            "</s>",
            "<|eot_id|>",
            *byte_alphabet(),
            *[merge.replace(" ", "") for merge in merges],
        ]
        tokens += [f"<|extra{i}|>" for i in range(SIZE - len(tokens))]
        writer.add_tokenizer_model(changes.get("model", "gpt2"))
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3, 3, *[1] * (SIZE - 4), 4])
        writer.add_token_merges(merges)
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        if "add_bos" in changes:
            writer.add_add_bos_token(changes["add_bos"])
        if "eot" in changes:
            writer.add_eot_token_id(changes["eot"])

    return write


JOINS = ["Ġ t", "Ġ Ġ"]
DIGITS = ["1 2", "3 4", "12 3", "12 34", "Ġ 1"]


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["1234"]),
        ("smollm", ["1", "2", "3", "4"]),
        ("qwen2", ["1", "2", "3", "4"]),
        ("llama-bpe", ["123", "4"]),
        ("tekken", ["1", "2", "3", "4"]),
        ("gpt-4o", ["123", "4"]),
        ("default", ["123", "4"]),
        (None, ["123", "4"]),
    ],
)
def test_the_name_says_how_words_are_cut(tmp_path: Path, pre: str | None, pieces: list[str]) -> None:
    tokenizer = tokenizer_of(tmp_path, byte_level(pre, DIGITS))
    ids = tokenizer.encode("1234", add_special_tokens=False)
    assert [tokenizer.decode([id_]) for id_ in ids] == pieces


def test_words_of_code_and_other_scripts_come_back(tmp_path: Path) -> None:
    text = "def f(x):\n\treturn x**2  # naïve 日本語 🙂👩‍👩‍👧\r\n\n  it's 3.14 – Ωμέγα"
    for pre in ("smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o", "default"):
        folder = tmp_path / pre
        tokenizer = tokenizer_of(folder, byte_level(pre, JOINS))
        assert tokenizer.decode(tokenizer.encode(text, False), False) == text


def test_beginnings_and_ends_are_those_of_the_file(tmp_path: Path) -> None:
    for number, (pre, changes, begins) in enumerate(
        [
            ("smollm", {}, False),
            ("smollm", {"add_bos": True}, True),
            ("llama-bpe", {}, True),
            ("llama-bpe", {"add_bos": False}, False),
        ]
    ):
        tokenizer = tokenizer_of(tmp_path / str(number), byte_level(pre, JOINS, **changes))
        assert (tokenizer.encode("a")[0] == 0) is begins
        assert tokenizer.bos_token_id == 0
        # The end of a turn is known by its name.
        assert tokenizer.eos_token_ids == [1, 2]
    named = tokenizer_of(tmp_path / "eot", byte_level("smollm", JOINS, eot=5))
    assert named.eos_token_ids == [1, 5, 2]


def test_special_tokens_and_those_of_the_user_are_found_in_a_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, byte_level("smollm", JOINS))
    ids = tokenizer.encode("a</s><|extra58|>", add_special_tokens=False)
    assert ids == [3 + 97, 1, SIZE - 1]
    assert tokenizer.decode(ids) == "a<|extra58|>"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (byte_level("falcon", JOINS), '"tokenizer.ggml.pre" is "falcon", whose rule of words is not known'),
        (
            byte_level("smollm", JOINS, model="bert"),
            '"tokenizer.ggml.model" is "bert", expected "gpt2" or "llama"',
        ),
        (byte_level("smollm", ["ab"]), 'holds "ab", which is not a pair of tokens'),
        (
            byte_level("smollm", JOINS, eot=7000),
            '"tokenizer.ggml.eot_token_id" is 7000, but there are 320 tokens',
        ),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, write: Any, message: str) -> None:
    with pytest.raises(ModelLoadingError, match=message) as found:
        tokenizer_of(tmp_path, write)
    assert "m.gguf: " in str(found.value)


def test_neighbours_of_the_highest_score_are_joined_first(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, sentencepiece(space=False, bos=False))
    names = ("tokens", "scores", "token_type")
    values = dict(zip([f"tokenizer.ggml.{name}" for name in names], sentencepiece_tokens(), strict=True))
    draw = random.Random(1)
    texts = ["".join(draw.choices("thecatin  gs", k=draw.randrange(40))) for _ in range(300)]
    for text in [*texts, *TEXTS, string.printable, "  the  cat"]:
        assert tokenizer.encode(text) == join_neighbours(text, values), repr(text)
        assert tokenizer.decode(tokenizer.encode(text, False), False) == text


def test_a_space_is_put_before_texts_unless_the_file_says_no(tmp_path: Path) -> None:
    tokens, *_ = sentencepiece_tokens()
    the = tokens.index("▁the")
    spaced = tokenizer_of(tmp_path / "a", sentencepiece())
    assert spaced.encode("the") == [1, the]
    assert spaced.decode([1, the]) == "the"
    user = tokens.index("<|user|>")
    assert spaced.encode("<|user|>the", add_special_tokens=False) == [user, the]
    plain = tokenizer_of(tmp_path / "b", sentencepiece(space=False))
    assert plain.encode("the") == [1, tokens.index("the")]
    assert plain.encode("a\n\nb", add_special_tokens=False)[1] == tokens.index("\n\n")


def test_phi3_leaves_out_spaces_after_its_special_tokens(tmp_path: Path) -> None:
    tokens, *_ = sentencepiece_tokens()
    tokenizer = tokenizer_of(tmp_path, sentencepiece(), "phi3")
    user, the = tokens.index("<|user|>"), tokens.index("▁the")
    assert tokenizer.encode("<|user|>\nthe", add_special_tokens=False) == [user, the]
