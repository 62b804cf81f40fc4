"""Tokenizers of GGUF files: byte-level BPE by the name of its rule of words, and SentencePiece's BPE by its scores."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import gguf
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ModelLoadingError
from support.gguf_files import FAMILIES, byte_alphabet, family_config, random_weights, write_gguf

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
        tokens = ["<s>", "</s>", "<|eot_id|>", *byte_alphabet(), *[merge.replace(" ", "") for merge in merges]]
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
        tokenizer = tokenizer_of(folder, byte_level(pre, ["Ġ t", "Ġ Ġ"]))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_beginnings_and_ends_are_those_of_the_file(tmp_path: Path) -> None:
    for number, (pre, changes, begins) in enumerate(
        [
            ("smollm", {}, False),
            ("smollm", {"add_bos": True}, True),
            ("llama-bpe", {}, True),
            ("llama-bpe", {"add_bos": False}, False),
        ]
    ):
        tokenizer = tokenizer_of(tmp_path / str(number), byte_level(pre, [], **changes))
        assert (tokenizer.encode("a")[0] == 0) is begins
        assert tokenizer.bos_token_id == 0
        # The end of a turn is known by its name.
        assert tokenizer.eos_token_ids == [1, 2]
    named = tokenizer_of(tmp_path / "eot", byte_level("smollm", [], eot=5))
    assert named.eos_token_ids == [1, 5, 2]


def test_special_tokens_and_those_of_the_user_are_found_in_a_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, byte_level("smollm", []))
    ids = tokenizer.encode("a</s><|extra60|>", add_special_tokens=False)
    assert ids == [3 + 97, 1, SIZE - 1]
    assert tokenizer.decode(ids) == "a<|extra60|>"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (byte_level("falcon", []), '"tokenizer.ggml.pre" is "falcon", whose rule of words is not known'),
        (byte_level("smollm", [], model="bert"), '"tokenizer.ggml.model" is "bert", expected "gpt2" or "llama"'),
        (byte_level("smollm", ["ab"]), 'holds "ab", which is not a pair of tokens'),
        (byte_level("smollm", [], eot=7000), '"tokenizer.ggml.eot_token_id" is 7000, but there are 320 tokens'),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, write: Any, message: str) -> None:
    with pytest.raises(ModelLoadingError, match=message) as found:
        tokenizer_of(tmp_path, write)
    assert "m.gguf: " in str(found.value)


PIECES = ["▁the", "▁cat", "he", "▁t", "ca", "▁c", "at", "th", "the", "tt", "▁▁", "in", "ing", "▁in"]
LETTERS = ["▁", *"abcdefghijklmnopqrst"]


def sentencepiece_tokens() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a small vocabulary."""
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    types = [2, 3, 3, *[6] * 256]
    scores = [0.0] * len(tokens)
    tokens += [*PIECES, *LETTERS, "\n\n", "<|user|>"]
    scores += [-float(rank) for rank in range(len(PIECES) + len(LETTERS))] + [-1000.0, -1000.0]
    types += [1] * (len(PIECES) + len(LETTERS)) + [4, 3]
    while len(tokens) < SIZE:
        tokens.append(f"[PAD{len(tokens)}]")
        scores.append(-10_000.0)
        types.append(5)
    return tokens, scores, types


def sentencepiece(*, space: bool | None = None, bos: bool | None = None) -> Any:
    """Writes that vocabulary."""

    def write(writer: gguf.GGUFWriter) -> None:
        tokens, scores, types = sentencepiece_tokens()
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        if space is not None:
            writer.add_add_space_prefix(space)
        if bos is not None:
            writer.add_add_bos_token(bos)

    return write


def join_neighbours(text: str) -> list[int]:
    """The tokens of a text without special ones: the two neighbours of the highest score are joined, the first first."""
    tokens, scores, types = sentencepiece_tokens()
    ids = {token: id_ for id_, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == 1}
    pieces = list(text.replace(" ", "▁"))
    while True:
        pairs = [
            (-scores[ids[left + right]], at)
            for at, (left, right) in enumerate(zip(pieces, pieces[1:], strict=False))
            if left + right in ids
        ]
        if not pairs:
            break
        at = min(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    found = []
    for piece in pieces:
        found += [ids[piece]] if piece in ids else [3 + byte for byte in piece.encode()]
    return found


def test_neighbours_of_the_highest_score_are_joined_first(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, sentencepiece(space=False, bos=False))
    draw = random.Random(1)
    texts = ["".join(draw.choices("thecatin  gs", k=draw.randrange(40))) for _ in range(300)]
    for text in [*texts, "naïve 🙂", string.printable, "  the  cat"]:
        plain = text.replace("\n\n", "")
        assert tokenizer.encode(plain) == join_neighbours(plain), repr(plain)
        assert tokenizer.decode(tokenizer.encode(plain)) == plain


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
    assert "phi3" in FAMILIES
    tokens, *_ = sentencepiece_tokens()
    tokenizer = tokenizer_of(tmp_path, sentencepiece(), "phi3")
    user, the = tokens.index("<|user|>"), tokens.index("▁the")
    assert tokenizer.encode("<|user|>\nthe", add_special_tokens=False) == [user, the]
