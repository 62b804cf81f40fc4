"""Small tokenizers in Hugging Face's format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from support.engine import MODELS

BOS, EOS = "<s>", "</s>"
NAMED = {"bos_token": BOS, "eos_token": EOS}

Json = dict[str, Any]


def added(content: str, **flags: Any) -> Json:
    """A special token, as ``added_tokens_decoder`` describes it."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": content, **plain, "special": True, **flags}


def byte_level() -> Json:
    """Byte ``b`` is token ``b``; then ``" A"``, BOS and EOS."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printed]
    shown = {byte: chr(byte) for byte in printed} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    vocab = {shown[byte]: byte for byte in range(0x100)} | {"ĠA": 256}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": ["Ġ A"]}
    return _tokenizer(model, {BOS: 257, EOS: 258}, pre_tokenizer=level, decoder=level)


def sentencepiece() -> Json:
    """Llama 2 in small: a space before every text, letters, bytes for the rest."""
    special = {"<unk>": 0, BOS: 1, EOS: 2}
    letters = [chr(code) for code in range(0x21, 0x7F)]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, "▁d", "de", "▁de", "ef"]
    replace = {"pattern": {"String": " "}, "content": "▁"}
    return _tokenizer(
        {
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": ["▁ d", "d e", "▁d e", "e f"],
        },
        special,
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", **replace}],
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    )


def with_tokenizer(folder: Path, tokenizer: Json, files: dict[str, Json]) -> Path:
    """A model folder with another tokenizer, and ``files`` beside it."""
    shutil.copytree(MODELS / "llama_gqa", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= files.pop("config.json", {})
    for name, content in {"tokenizer.json": tokenizer, "config.json": config, **files}.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _tokenizer(model: Json, special: dict[str, int], **parts: Json) -> Json:
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, **added(token)} for token, index in special.items()],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, text],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [special[BOS]], "tokens": [BOS]}},
        },
        **parts,
        "model": {"type": "BPE", **dict.fromkeys(MODEL_KEYS), **model},
    }


MODEL_KEYS = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
