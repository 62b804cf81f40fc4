"""Tokenizer files: the same tokens as transformers, and what rows become with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import transformers

import efficientai_toolkit as eat
from efficientai_toolkit import _core
from efficientai_toolkit.data.rows import read_rows
from efficientai_toolkit.evaluation.config import EvaluationConfig, find_data_file
from efficientai_toolkit.exceptions import DatasetError, ModelLoadingError
from support.engine import MODELS, train
from support.rows import write_jsonl, write_words
from support.tokenizers import BOS, EOS, NAMED, Json, added, byte_level, sentencepiece, with_tokenizer

if TYPE_CHECKING:
    from support.figures import Check

MODEL = MODELS / "llama_gqa"
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
LLAMA = {**NAMED, "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
TURNS = {"259": added("<|im_start|>"), "260": added("<|im_end|>")}
FLAGS = {
    "261": added("<tool>", special=False, normalized=True),
    "262": added("<l>", lstrip=True),
    "263": added("<r>", rstrip=True),
    "264": added("word", single_word=True, special=False),
    "258": added(EOS, lstrip=True),
}

CASES: dict[str, tuple[Callable[[], Json], dict[str, Json]]] = {
    "declared": (byte_level, {CONFIG: {**NAMED, "added_tokens_decoder": TURNS | FLAGS}}),
    "additional": (byte_level, {CONFIG: {**NAMED, "additional_special_tokens": ["<a>", "<b>", "<a>"]}}),
    "typed": (
        byte_level,
        {CONFIG: {**NAMED, "extra_special_tokens": [{"__type": "AddedToken", **added("<a>", lstrip=True)}]}},
    ),
    "extra": (
        byte_level,
        {CONFIG: {**NAMED, "extra_special_tokens": ["<b>"], "additional_special_tokens": ["<a>"]}},
    ),
    "named": (
        byte_level,
        {CONFIG: {**NAMED, "extra_special_tokens": {"image_token": "<a>"}, "audio_token": "<b>"}},
    ),
    "map": (
        byte_level,
        {CONFIG: NAMED, MAP: {"eos_token": "<a>", "pad_token": {"content": "<pad>", "lstrip": True}}},
    ),
    "map of extra tokens": (
        byte_level,
        {
            CONFIG: {**NAMED, "extra_special_tokens": ["<a>"]},
            MAP: {"extra_special_tokens": ["<b>", "<a>"], "additional_special_tokens": ["<tool>"]},
        },
    ),
    "map that does not count": (
        byte_level,
        {CONFIG: {**NAMED, "added_tokens_decoder": TURNS}, MAP: {"eos_token": "<a>"}},
    ),
    "added_tokens.json": (
        byte_level,
        {CONFIG: {**NAMED, "additional_special_tokens": ["<a>"]}, ADDED: {"<a>": 260, "<b>": 259, BOS: 257}},
    ),
    "padding outside the vocabulary": (byte_level, {CONFIG: {**NAMED, "pad_token": "<pad>"}}),
    "end outside the vocabulary": (byte_level, {CONFIG: {**NAMED, "eos_token": "<b>"}}),
    "none": (byte_level, {CONFIG: {"bos_token": "", "eos_token": "", "pad_token": ""}}),
    "special by name alone": (byte_level, {CONFIG: {**NAMED, "mask_token": "ĠA"}}),
    "add_bos_token": (byte_level, {CONFIG: {**NAMED, "add_bos_token": False, "add_eos_token": True}}),
    "bytes of a LlamaTokenizer": (byte_level, {CONFIG: LLAMA}),
    "LlamaTokenizer": (sentencepiece, {CONFIG: LLAMA}),
    "legacy": (sentencepiece, {CONFIG: {**LLAMA, "legacy": True}}),
    "no prefix": (sentencepiece, {CONFIG: {**LLAMA, "add_prefix_space": False}}),
    "another class": (sentencepiece, {CONFIG: {**LLAMA, "tokenizer_class": "PreTrainedTokenizerFast"}}),
    "another family": (sentencepiece, {CONFIG: LLAMA, "config.json": {"model_type": "mistral"}}),
}
TEXTS = (
    "a <|im_start|> b<|im_end|><tool> x <l> y <r>  z word words",
    "<a> <b><pad>ĠA A </s>",
    "def f(x):\n  é</s>b <s> def</s> de",
    "<s> lead",
    "",
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    tokenizer, files = CASES[name]
    folder = with_tokenizer(tmp_path / "model", tokenizer(), dict(files))
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    _, ours = eat.load(folder)
    assert ours.vocab_size == len(theirs)
    if theirs.eos_token_id is not None:
        assert ours.eos_token_ids[0] == theirs.eos_token_id
    for text in TEXTS:
        for special in (True, False):
            ids = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, add_special_tokens=special) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


ROWS: list[tuple[Callable[[], Json], Json, Json, int]] = [
    (byte_level, {**NAMED, "added_tokens_decoder": TURNS, "chat_template": CHATML}, CHAT, 28),
    (byte_level, NAMED, {"text": "<s>def f(x):\n    return x + 123"}, 30),
    (byte_level, NAMED, {"prompt": "<s>a", "completion": "b</s>"}, 4),
    (sentencepiece, LLAMA, {"prompt": "DEF F(", "completion": "x):"}, 12),
]


@pytest.mark.parametrize("case", ROWS)
def test_tokens_of_a_row(
    case: tuple[Callable[[], Json], Json, Json, int], tmp_path: Path, figure: Check
) -> None:
    tokenizer, config, row, tokens = case
    folder = with_tokenizer(tmp_path / "model", tokenizer(), {CONFIG: config})
    data = write_jsonl(tmp_path / "data.jsonl", [row])
    loaded = _core.models.load(str(folder), None, None)
    report = json.loads(_core.lora.validate(*loaded, json.dumps({"data": str(data)})))
    figure(f"tokens of {row} besides {tokens}", abs(report["train"]["tokens"] - tokens), 0)


def test_any_padding_will_do(tmp_path: Path) -> None:
    """Even one that the model has no embedding for."""
    data = write_words(tmp_path / "data", [[5, 6, 7], [8, 9]])
    want = train(MODEL, data, tmp_path / "run", iters=2).losses
    folder = shutil.copytree(MODEL, tmp_path / "model")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "pad_token": "[PAD]"}), encoding="utf-8")
    assert train(folder, data, tmp_path / "padded", iters=2).losses == want


def test_an_id_that_no_token_can_have(tmp_path: Path) -> None:
    files = {CONFIG: {**NAMED, "added_tokens_decoder": {"300": added("<a>")}}}
    folder = with_tokenizer(tmp_path / "model", byte_level(), files)
    with pytest.raises(
        ModelLoadingError, match=r'tokenizer_config\.json: the token "<a>" has the id 300, .* is 259'
    ):
        eat.load(folder)


@pytest.mark.parametrize("name", ["valid", "validation", "dev"])
def test_validation_files(name: str, tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", [[5, 6]])
    (data / "valid.jsonl").unlink()
    file = write_jsonl(data / f"{name}.jsonl", [{"text": "t5"}] * 3)
    loaded = _core.models.load(str(MODEL), None, None)
    settings = json.dumps({"data": str(data)})
    assert json.loads(_core.lora.validate(*loaded, settings))["valid"]["rows"] == 3
    assert find_data_file(EvaluationConfig(data=str(data))) == file
    other = write_jsonl(data / ("dev.jsonl" if name != "dev" else "valid.jsonl"), [{"text": "t5"}])
    both = r"both there; which one holds the rows\?"
    if other != file:
        with pytest.raises(DatasetError, match=both) as error:
            _core.lora.validate(*loaded, settings)
        assert file.name in str(error.value)
        assert other.name in str(error.value)
        with pytest.raises(DatasetError, match=both):
            find_data_file(EvaluationConfig(data=str(data)))


@pytest.mark.parametrize(
    "line", [r'{"text": "a\ud800"}', r'{"prompt": "p", "text": ["\ud83d\ude00", "\udfff"]}']
)
def test_lone_surrogates(line: str, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "t5"}\n' + line, encoding="utf-8")
    told = r'data\.jsonl:2: "text" holds \\ud(800|fff), a lone surrogate: half of a character'
    loaded = _core.models.load(str(MODEL), None, None)
    with pytest.raises(DatasetError, match=told):
        _core.lora.validate(*loaded, json.dumps({"data": str(data)}))
    with pytest.raises(DatasetError, match=told):
        read_rows(data)
