"""Models and tokenizers as Python programs use them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit import Model, Tokenizer
from efficientai_toolkit.exceptions import ConfigError, TrainingError
from support.engine import MODELS

EMBEDDED_PARAMETERS = 3_475_712
SURROGATE = "half of a surrogate pair"


@pytest.fixture(scope="module")
def loaded() -> tuple[Model, Tokenizer]:
    return eat.load()


@pytest.fixture(scope="module")
def chat() -> tuple[Model, Tokenizer]:
    return eat.load(MODELS / "chat")


# --- Tokenizers


def test_a_tokenizer_is_called(loaded: tuple[Model, Tokenizer]) -> None:
    tokenizer = loaded[1]
    one = tokenizer("hi there")
    assert one == {"input_ids": tokenizer.encode("hi there"), "attention_mask": [1, 1, 1]}
    several = tokenizer(["a", "b c"], add_special_tokens=False)
    assert several["input_ids"] == [tokenizer.encode(text, False) for text in ("a", "b c")]
    assert several["attention_mask"] == [[1] * len(ids) for ids in several["input_ids"]]


def test_a_tokenizer_is_described(loaded: tuple[Model, Tokenizer], chat: tuple[Model, Tokenizer]) -> None:
    tokenizer = loaded[1]
    assert len(tokenizer) == tokenizer.vocab_size == 2048
    assert repr(tokenizer) == (
        "Tokenizer(vocab_size=2048, bos_token_id=0, eos_token_id=0, pad_token_id=0, has_chat_template=False)"
    )
    other = chat[1]
    assert other.eos_token_id == other.eos_token_ids[0]
    assert other.bos_token_id is None
    assert other.pad_token_id == other.encode("<|endoftext|>")[0]


def test_text_and_ids_that_cannot_be(loaded: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = loaded
    for wrong in (
        lambda: tokenizer.encode("\ud800"),
        lambda: tokenizer(["\ud800"]),
        lambda: eat.generate(model, tokenizer, "\ud800"),
        lambda: model.load_adapter("nowhere", "\ud800"),
    ):
        with pytest.raises(ConfigError, match=SURROGATE):
            wrong()
    for ids, shown in (([-1], "-1"), ([2**32], "4294967296"), ([2**70], "9223372036854775807")):
        with pytest.raises(ConfigError, match=f"ids hold {shown}, expected 0 to 4294967295"):
            tokenizer.decode(ids)
    assert tokenizer.decode(cast("list[int]", np.array(tokenizer.encode("Hi")))) == "Hi"


# --- Chat templates


MESSAGES = [{"role": "user", "content": "Hi"}]


def test_a_conversation_is_a_list_of_dictionaries(chat: tuple[Model, Tokenizer]) -> None:
    tokenizer = chat[1]
    text = tokenizer.apply_chat_template(MESSAGES)
    assert "Hi" in text
    assert tokenizer.apply_chat_template(tuple(MESSAGES), tokenize=False) == text
    assert text.startswith(tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=False))


def test_options_of_one_conversation(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (MODELS / "chat").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}{{ mood | default('-') }}")
    tokenizer = eat.load(folder)[1]
    assert tokenizer.apply_chat_template(MESSAGES, mood="glad") == "Higlad"
    assert tokenizer.apply_chat_template(MESSAGES) == "Hi-"


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ('[{"role": "user"}]', {}, "messages is a text, expected a list of dictionaries"),
        (5, {}, "messages: .* expected a list of dictionaries"),
        (["Hi"], {}, r'messages\[0\] is "Hi", expected a list of dictionaries'),
        ([{"role": {1}}], {}, "messages: Object of type set is not JSON serializable"),
        ([{"role": "user", "content": "\ud800"}], {}, "messages: [a-z ]+$"),
        ([{"role": "user", "content": float("nan")}], {}, "messages: Out of range float"),
        (MESSAGES, {"tools": "x"}, "tools is a text"),
        (MESSAGES, {"tokenize": True}, "pass that to tokenizer.encode"),
        (MESSAGES, {"mood": {1}}, "chat_template_kwargs: Object of type set"),
    ],
)
def test_what_is_no_conversation(
    chat: tuple[Model, Tokenizer], messages: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        chat[1].apply_chat_template(messages, **options)


def test_a_conversation_may_not_contain_itself(chat: tuple[Model, Tokenizer]) -> None:
    messages: list[Any] = [{"role": "user"}]
    messages[0]["content"] = messages
    with pytest.raises(ConfigError, match="messages: Circular reference"):
        chat[1].apply_chat_template(messages)


# --- Prompts


def test_prompts_of_every_kind(chat: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = chat
    ids = tokenizer.encode("Hi")
    text = eat.generate(model, tokenizer, "Hi", max_tokens=4)
    answer = eat.generate(model, tokenizer, MESSAGES, max_tokens=4)
    assert eat.generate(model, tokenizer, ids, max_tokens=4) == text
    assert eat.generate(model, tokenizer, cast("list[int]", np.array(ids)), max_tokens=4) == text
    assert eat.generate(model, tokenizer, ["Hi", "Hi"], max_tokens=4) == [text, text]
    assert eat.generate(model, tokenizer, [ids, ids], max_tokens=4) == [text, text]
    conversations: list[Sequence[Mapping[str, Any]]] = [MESSAGES]
    assert eat.generate(model, tokenizer, conversations, max_tokens=4) == [answer]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt has no tokens"),
        (5, "a prompt is a text, token ids, messages, or a list of these, not 5"),
        ([1.5], "a prompt is a text"),
        (b"Hi", "a prompt is a text"),
        ([-1], "ids hold -1"),
        ([10**6], "1000000"),
        ([[["Hi"]]], "a prompt is a text"),
    ],
)
def test_what_is_no_prompt(loaded: tuple[Model, Tokenizer], prompt: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        eat.generate(*loaded, prompt)


def test_a_stream_is_for_one_prompt(loaded: tuple[Model, Tokenizer]) -> None:
    with pytest.raises(ConfigError, match="`stream` is for a single prompt"):
        eat.generate(*loaded, ["Hi"], stream=print)


# --- Models


def test_packed_weights_count_as_what_they_stand_for(loaded: tuple[Model, Tokenizer]) -> None:
    assert loaded[0].num_parameters == EMBEDDED_PARAMETERS
    for bits in (4, 8):
        assert eat.load(bits=bits)[0].num_parameters == EMBEDDED_PARAMETERS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": -1}, "bits is -1, but must not be negative"),
        ({"bits": 2**70}, "have 2, 3, 4, 5, 6 or 8 bits"),
        ({"bits": 4, "group_size": -1}, "group_size is -1, but must not be negative"),
        ({"dtype": "\ud800"}, SURROGATE),
        ({"chat_template_kwargs": {"a": {1}}}, "chat_template_kwargs: Object of type set"),
    ],
)
def test_wrong_ways_to_load(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        eat.load(**options)


def test_logits_for_mlx(loaded: tuple[Model, Tokenizer]) -> None:
    ids = mx.array([[1, 2, 3]])
    logits = loaded[0].mlx_logits(ids)
    assert isinstance(logits, mx.array)
    assert np.array_equal(np.array(logits), loaded[0](ids))


def test_threads_wait_for_each_other(loaded: tuple[Model, Tokenizer]) -> None:
    expected = eat.generate(*loaded, "Hi", max_tokens=20)
    answers: list[object] = []

    def work() -> None:
        try:
            answers.append(eat.generate(*loaded, "Hi", max_tokens=20))
        except BaseException as error:  # noqa: BLE001
            answers.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [expected] * 4


def test_a_callback_cannot_use_the_model_it_waits_for(loaded: tuple[Model, Tokenizer]) -> None:
    with pytest.raises(TrainingError, match="in use by the call whose callback this is"):
        eat.generate(*loaded, "Hi", max_tokens=4, stream=lambda _: loaded[0]([[1]]))
    assert eat.generate(*loaded, "Hi", max_tokens=4)


# --- Processes


FORK = """
import multiprocessing, os, sys
import efficientai_toolkit as eat
from efficientai_toolkit.lora import TrainingConfig

def child(queue, model, tokenizer):
    for work in (
        lambda: eat.generate(model, tokenizer, "Hi", max_tokens=4),
        lambda: model([[1]]),
        lambda: tokenizer.encode("Hi"),
        lambda: eat.load(),
        lambda: model.num_parameters,
    ):
        try:
            queue.put(str(work()))
        except eat.exceptions.ToolkitError as error:
            queue.put(f"ToolkitError: {error}")

def fresh(queue):
    queue.put(eat.generate(*eat.load(), "Hi", max_tokens=4))

context = multiprocessing.get_context("fork")
queue = context.Queue()
TrainingConfig(lr=0.5), eat.hardware()
process = context.Process(target=fresh, args=(queue,))
process.start()
print(queue.get(timeout=60))
process.join(60)
process = context.Process(target=child, args=(queue, *eat.load()))
process.start()
for _ in range(5):
    print(queue.get(timeout=60))
process.join(60)
print(process.exitcode)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_is_told_so() -> None:
    words = [sys.executable, "-c", FORK]
    outcome = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    assert outcome.returncode == 0, outcome.stderr
    first, *others, code = outcome.stdout.strip().rsplit("\n", 6)
    assert first
    assert len(others) == 5
    assert all("ToolkitError: this process was forked" in line and '"spawn"' in line for line in others)
    assert code == "0"
