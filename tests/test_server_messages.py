"""The server as Anthropic's client uses it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.server import version
from efficientai_toolkit.server.config import ServeConfig
from support.server import Running, ScriptedBackend, chat_model, running

QUESTION: Any = [{"role": "user", "content": [{"type": "text", "text": "Who goes there?"}]}]
GREEDY: Any = {"temperature": 0}
"""This client has left the field out; older ones send it."""

WEATHER: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ANSWER = (
    '<think>Hm.</think>I look.\n<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Running]:
    with running(ServeConfig(models={"chat": str(model_path)})) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedBackend:
    backend = ScriptedBackend([ANSWER])
    monkeypatch.setattr(version, "create_backend", lambda *_, **__: backend)
    return backend


@pytest.fixture
def scripted_client(scripted: ScriptedBackend, model_path: Path) -> Iterator[anthropic.Anthropic]:
    with (
        running(ServeConfig(models={"chat": str(model_path)})) as found,
        anthropic.Anthropic(base_url=found.url, api_key="none", max_retries=0) as client,
    ):
        yield client


def test_a_message_is_what_python_gives(client: anthropic.Anthropic, model_path: Path) -> None:
    model, tokenizer = eat.load(model_path)
    done = client.messages.create(
        model="chat", messages=QUESTION, system="Be brief.", max_tokens=8, extra_body=GREEDY
    )
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who goes there?"},
    ]
    [block] = done.content
    assert block.type == "text"
    assert block.text == eat.generate(model, tokenizer, conversation, max_tokens=8)
    assert (done.stop_reason, done.stop_sequence) == ("max_tokens", None)
    assert done.usage.output_tokens == 8
    counted = client.messages.count_tokens(model="chat", messages=QUESTION, system="Be brief.")
    assert counted.input_tokens == done.usage.input_tokens
    assert done.usage.cache_read_input_tokens == 0
    with client.messages.stream(
        model="chat", messages=QUESTION, system="Be brief.", max_tokens=8, extra_body=GREEDY
    ) as stream:
        assert "".join(stream.text_stream) == block.text
        usage = stream.get_final_message().usage
        assert usage.output_tokens == 8
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == done.usage.input_tokens


def test_the_beginning_of_an_answer_is_continued(client: anthropic.Anthropic, model_path: Path) -> None:
    model, tokenizer = eat.load(model_path)
    begun: Any = [*QUESTION, {"role": "assistant", "content": "The king"}]
    done = client.messages.create(model="chat", messages=begun, max_tokens=5, extra_body=GREEDY)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Who goes there?"}]) + "The king"
    ids = tokenizer.encode(text, add_special_tokens=False)
    [block] = done.content
    assert block.type == "text"
    assert block.text == eat.generate(model, tokenizer, ids, max_tokens=5)


def test_the_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model="chat", messages=QUESTION, max_tokens=12, extra_body=GREEDY).content[
        0
    ]
    assert whole.type == "text"
    stop = whole.text[5:8]
    done = client.messages.create(
        model="chat", messages=QUESTION, max_tokens=12, stop_sequences=["@", stop], extra_body=GREEDY
    )
    assert (done.stop_reason, done.stop_sequence) == ("stop_sequence", stop)
    [block] = done.content
    assert block.type == "text"
    assert block.text == whole.text[: whole.text.index(stop)]


def test_tools_and_thinking(scripted: ScriptedBackend, scripted_client: anthropic.Anthropic) -> None:
    done = scripted_client.messages.create(model="chat", messages=QUESTION, max_tokens=100, tools=[WEATHER])
    assert done.stop_reason == "tool_use"
    assert [block.type for block in done.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in done.content if block.type == "tool_use"] == [
        {"city": "Rome"},
        {"city": "Oslo"},
    ]
    with scripted_client.messages.stream(
        model="chat", messages=QUESTION, max_tokens=100, tools=[WEATHER]
    ) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in final.content if block.type == "tool_use"] == [
        {"city": "Rome"},
        {"city": "Oslo"},
    ]
    assert events.count("content_block_start") == events.count("content_block_stop") == 4
    alone = scripted_client.messages.create(
        model="chat", messages=QUESTION, max_tokens=100, tools=[WEATHER],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )  # fmt: skip
    assert [block.type for block in alone.content] == ["thinking", "text", "tool_use"]


def test_results_of_tools_go_back(
    scripted: ScriptedBackend, scripted_client: anthropic.Anthropic, model_path: Path
) -> None:
    first = scripted_client.messages.create(model="chat", messages=QUESTION, max_tokens=100, tools=[WEATHER])
    [_, _, call, _] = first.content
    assert call.type == "tool_use"
    scripted.texts = ["Warm."]
    result: Any = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "22 degrees"}],
    }
    messages: Any = [
        *QUESTION,
        {"role": "assistant", "content": [block.model_dump() for block in first.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
    ]
    scripted_client.messages.create(model="chat", messages=messages, max_tokens=100, tools=[WEATHER])
    _, tokenizer = eat.load(model_path)
    prompt = tokenizer.decode(scripted.prompts[-1])
    assert prompt.endswith("<|tool|>\n22 degrees\n<|user|>\nAnd?\n<|assistant|>\n")
    assert '"city": "Rome"' in prompt


def test_a_tool_may_be_forced(scripted: ScriptedBackend, scripted_client: anthropic.Anthropic) -> None:
    scripted.texts = ['{"city": "Rome"}}\n</tool_call>']
    done = scripted_client.messages.create(
        model="chat", messages=QUESTION, max_tokens=100, tools=[WEATHER], tool_choice={"type": "any"}
    )
    assert done.stop_reason == "tool_use"
    [block] = done.content
    assert block.type == "tool_use"
    assert block.input == {"city": "Rome"}


def test_errors_have_anthropics_form(client: anthropic.Anthropic, server: Running) -> None:
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        client.messages.create(model="none", messages=QUESTION, max_tokens=8)
    image: Any = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
    with pytest.raises(anthropic.BadRequestError, match="read text only"):
        client.messages.create(model="chat", messages=image, max_tokens=8)
    response = server.post("/v1/messages", {"messages": []})
    assert response.status_code == 400
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "invalid_request_error"
