"""Chat templates: the text and the mask of transformers, and templates that mean harm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import efficientai_toolkit as eat
from efficientai_toolkit import _core
from efficientai_toolkit._chat_templates import worker
from efficientai_toolkit.exceptions import ConfigError, DatasetError, ModelLoadingError, ToolkitError
from efficientai_toolkit.lora import TrainingConfig
from support import compare_templates
from support.engine import MODELS
from support.rows import write_jsonl
from support.templates import CALL, CHATML, CONSTRUCTS, CONVERSATIONS, GENERATION, TOOL, Conversation, said

QUESTION = [said("user", "Hi")]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose template is replaced."""
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "chat", folder)
    return folder


def render(
    folder: Path, template: str, messages: list[Any] = QUESTION, tools: list[dict[str, Any]] | None = None
) -> str:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
    return eat.load(folder)[1].apply_chat_template(messages, tools, add_generation_prompt=True)


def describe(folder: Path, rows: list[Conversation], **settings: Any) -> dict[str, Any]:
    """Statistics of a split with ``rows``."""
    data = folder.parent / "data"
    data.mkdir(exist_ok=True)
    for split in ("train", "valid"):
        write_jsonl(data / f"{split}.jsonl", rows)
    config = TrainingConfig(data=str(data), **{"max_seq_length": 4096, **settings})
    report = json.loads(_core.lora.validate(*eat.load(folder), config.to_json()))
    statistics: dict[str, Any] = report["train"]
    return statistics


@pytest.mark.parametrize("template", CONSTRUCTS, ids=range(len(CONSTRUCTS)))
def test_constructs_are_those_of_transformers(template: str) -> None:
    for conversation in CONVERSATIONS.values():
        for prompt in (False, True):
            ours = compare_templates.rendered(template, conversation, prompt=prompt)
            assert ours == compare_templates.expected(template, conversation, prompt=prompt)


def test_some_constructs_are_rendered_and_some_refused() -> None:
    texts = [
        compare_templates.rendered(template, CONVERSATIONS["system"], prompt=False) for template in CONSTRUCTS
    ]
    assert sum(text is not None for text in texts) >= 30
    assert sum(text is None for text in texts) >= 7


# --- What is learned


MASKED = [
    *(conversation for name, conversation in CONVERSATIONS.items() if name != "null content"),
    {"messages": [said("system", "Be brief."), *CONVERSATIONS["two turns"]["messages"]]},
    {"messages": CONVERSATIONS["two turns"]["messages"] * 20},
    {
        "messages": [
            said("user", "😀 é"),
            said("assistant", "é 😀"),
            said("user", ""),
            said("assistant", "x\n\n"),
        ]
    },
    {"messages": [said("user", "a"), said("assistant", ""), said("assistant", "b"), said("assistant", "c")]},
    {"messages": [said("user", "<|im_end|>"), said("assistant", "<|im_start|>assistant\n<|im_end|>")]},
    {"messages": [said("user", "a\n" * 50), said("assistant", "word " * 200)]},
    {"messages": [said("tool", "1"), said("assistant", "1"), said("tool", "2"), said("assistant", "2")]},
    {"messages": [said("user", "list"), said("assistant", "1. a\n2. b\n\n- c")]},
]


def test_masks_are_those_of_transformers(model: Path) -> None:
    """The number of learned tokens of 20 conversations, and their texts."""
    (model / "chat_template.jinja").write_text(GENERATION, encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(model)
    assert len(MASKED) == 20
    for conversation in MASKED:
        encoded = theirs.apply_chat_template(
            conversation["messages"],
            tools=conversation.get("tools"),
            return_assistant_tokens_mask=True,
            return_dict=True,
            **conversation.get("chat_template_kwargs", {}),
        )
        ours = describe(model, [conversation])
        learned = [i for i, use in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if use]
        assert ours["trained_tokens"] == len(learned) > 0
        text = "".join(part["text"] for part in ours["example"] if part["learned"])
        assert text == theirs.decode(learned)


def test_every_turn_is_learned_without_generation_blocks(model: Path) -> None:
    (model / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    report = describe(model, [CONVERSATIONS["two turns"]])
    assert [part["text"] for part in report["example"] if part["learned"]] == [
        "Hello<|im_end|>",
        "Ciao<|im_end|>",
    ]
    long = {"messages": CONVERSATIONS["two turns"]["messages"] * 500}
    assert len(describe(model, [long], max_seq_length=100_000)["example"]) == 2 * 1000 + 1
    endless = {"messages": CONVERSATIONS["two turns"]["messages"] * 10_000}
    assert describe(model, [endless])["targets"] == 10_000 * report["targets"]
    first = {"messages": [said("assistant", "Hello", weight=0), *CONVERSATIONS["two turns"]["messages"][2:]]}
    report = describe(model, [first])
    assert [part["text"] for part in report["example"] if part["learned"]] == ["Ciao<|im_end|>"]


def test_prompt_and_completion_may_be_messages(model: Path) -> None:
    (model / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    messages = CONVERSATIONS["two turns"]["messages"]
    report = describe(model, [{"prompt": messages[:3], "completion": messages[3:]}])
    assert [part["text"] for part in report["example"] if part["learned"]] == ["Ciao<|im_end|>"]


def test_turns_without_a_mark_are_counted(
    model: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    last = (
        "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    (model / "chat_template.jinja").write_text(last, encoding="utf-8")
    assert describe(model, [CONVERSATIONS["two turns"]] * 3)["unmarked_turns"] == 3
    config = TrainingConfig(data=str(tmp_path / "data"), output=str(tmp_path / "run"), iters=1)
    _core.lora.train(*eat.load(model), config.to_json(), lambda _: None)
    assert (
        "6 turns of the assistant are not learned, since the chat template does not mark them" in caplog.text
    )


def test_turns_that_are_left_out_are_named(model: Path) -> None:
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(
        DatasetError, match=r"train\.jsonl:1: the content of message 2 \(assistant\) cannot be found"
    ):
        describe(model, [CONVERSATIONS["two turns"]])


# --- What templates are given


def test_files_of_templates(model: Path) -> None:
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | length }} tools")
    assert render(model, "no tools") == "no tools"
    assert render(model, "no tools", tools=[TOOL]) == "1 tools"
    assert render(model, "a\r\n{% if true %}\r\nb{% endif %}\r\n") == "a\nb"


def test_special_tokens_and_options(model: Path) -> None:
    template = "{{ eos_token }}{{ pad_token }}{{ enable_thinking | default('unset') }}{{ date }}"
    assert render(model, template) == "<|im_end|><|endoftext|>unset"
    options = {"enable_thinking": False, "date": "today"}
    _, tokenizer = eat.load(model, chat_template_kwargs=options)
    assert tokenizer.apply_chat_template(QUESTION) == "<|im_end|><|endoftext|>Falsetoday"
    with pytest.raises(ConfigError, match='chat_template_kwargs cannot set "messages"'):
        eat.load(model, chat_template_kwargs={"messages": []})
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        eat.load(MODELS / "llama_gqa", chat_template_kwargs=options)


def test_options_of_a_run_and_of_a_row(model: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ name }}"
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    row = {"messages": [said("user", "Hi"), said("assistant", "Hello")]}

    def text(row: Conversation) -> str:
        parts = describe(model, [row], chat_template_kwargs={"name": "run"}, mask_prompt=False)["example"]
        return "".join(part["text"] for part in parts)

    assert text(row) == "HiHellorun"
    assert text({**row, "chat_template_kwargs": {"name": "row"}}) == "HiHellorow"


def test_arguments_are_objects_where_templates_expect_them() -> None:
    called = said("assistant", None, tool_calls=[{"function": {"name": "f", "arguments": '{"a": 1}'}}])
    conversation = {"messages": [called]}
    objects = (
        "{% for k, v in messages[0].tool_calls[0].function.arguments.items() %}{{ k }}={{ v }}{% endfor %}"
    )
    assert compare_templates.rendered(objects, conversation, prompt=False) == "a=1"
    strings = "{{ 'call: ' + messages[0].tool_calls[0].function.arguments }}"
    assert compare_templates.rendered(strings, conversation, prompt=False) == 'call: {"a": 1}'
    assert (
        compare_templates.rendered(strings, {"messages": [said("user", "", tool_calls=[CALL])]}, prompt=False)
        is None
    )


# --- Templates that mean harm


HOSTILE = {
    "elif": "{% if a %}" + "{% elif b %}" * 10_000 + "{% endif %}",
    "signs": "{{ " + "-" * 30_000 + "1 }}",
    "sum": "{{ " + "1+" * 30_000 + "1 }}",
    "filters": "{{ 'a'" + "|upper" * 100_000 + " }}",
    "doubling": "{% set n=namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "indent": "{{ 'a\nb'|indent(10**9) }}",
    "batch": "{{ range(10)|batch(10**9,'x')|list }}",
    "product": "{{ 'x' * 10**10 }}",
    "format": "{{ '%10000000000d' % 1 }}",
    "parentheses": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "loops": "{% for a in messages %}" * 3_000 + "{% endfor %}" * 3_000,
    "long": "{% for i in range(90000) %}" + "x" * 1_000 + "{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_refused(model: Path, name: str) -> None:
    with pytest.raises((DatasetError, ModelLoadingError), match=r"the chat template|memory"):
        render(model, HOSTILE[name])
    assert render(model, "fine") == "fine"


def test_a_namespace_may_hold_itself(model: Path) -> None:
    template = "{% set ns=namespace() %}{% set ns.x=ns %}{{ ns }}"
    assert render(model, template) == "<Namespace {'x': <Namespace {...}>}>"


@pytest.mark.slow
def test_a_template_that_does_not_end_is_stopped(model: Path) -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(DatasetError, match="the chat template did not finish within 8 s"):
        render(model, endless)
    assert render(model, "fine") == "fine"


def test_the_memory_watch_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise SystemExit

    monkeypatch.setattr("os._exit", end)
    with pytest.raises(SystemExit):
        worker.watch_memory(1)
    assert codes == [1]


def test_a_broken_template_is_named(model: Path) -> None:
    with pytest.raises(
        ModelLoadingError, match=r"chat_template\.jinja: the chat template cannot be compiled: line 2: "
    ):
        render(model, "fine\n{% if %}")
    with pytest.raises(
        ToolkitError, match="cannot render this conversation: TypeError: can only concatenate"
    ):
        render(model, "{{ messages[0].content + 1 }}")
