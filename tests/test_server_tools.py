"""Tool calls, reasoning and the responses API, of texts that no small model writes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.server import version
from efficientai_toolkit.server.backend import Event
from efficientai_toolkit.server.config import ServeConfig
from support.server import TIME, WEATHER, ScriptedBackend, allowed, chat_model, running

QUESTION: Any = [{"role": "user", "content": "Who goes there?"}]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module")
def loaded(model_path: Path) -> Any:
    return eat.load(model_path)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedBackend:
    backend = ScriptedBackend([])
    monkeypatch.setattr(version, "create_backend", lambda *_, **__: backend)
    return backend


@pytest.fixture
def scripted_client(scripted: ScriptedBackend, model_path: Path) -> Iterator[openai.OpenAI]:
    with (
        running(ServeConfig(models={"chat": str(model_path)})) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


CALLS = (
    '<think>\nHm.\n</think>\n\nI look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n'
    '</tool_call>\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)


def test_tool_calls_and_reasoning(scripted: ScriptedBackend, scripted_client: openai.OpenAI) -> None:
    scripted.texts = [CALLS]
    tools = [WEATHER, TIME]
    message = scripted_client.chat.completions.create(model="chat", messages=QUESTION, tools=tools).choices[0]
    assert message.finish_reason == "tool_calls"
    assert message.message.content == "I look."
    assert message.message.model_dump()["reasoning_content"] == "Hm."
    assert message.message.tool_calls is not None
    calls = [
        (call.function.name, call.function.arguments)
        for call in message.message.tool_calls
        if call.type == "function"
    ]
    assert calls == [("weather", '{"city": "Rome"}'), ("time", "{}")]

    with scripted_client.chat.completions.stream(model="chat", messages=QUESTION, tools=tools) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert final.message.content == "I look."
    assert final.message.tool_calls is not None
    assert [(call.function.name, call.function.arguments) for call in final.message.tool_calls] == calls

    one = scripted_client.chat.completions.create(
        model="chat", messages=QUESTION, tools=tools, parallel_tool_calls=False
    ).choices[0]
    assert one.message.tool_calls is not None
    assert len(one.message.tool_calls) == 1
    none = scripted_client.chat.completions.create(
        model="chat", messages=QUESTION, tools=tools, tool_choice="none"
    ).choices[0]
    assert none.finish_reason == "stop"
    assert not none.message.tool_calls


def test_some_tools_may_be_allowed(scripted: ScriptedBackend, scripted_client: openai.OpenAI) -> None:
    scripted.texts = ['{"city": "Rome"}}\n</tool_call>']
    done = scripted_client.chat.completions.create(
        model="chat", messages=QUESTION, tools=[WEATHER, TIME], tool_choice=allowed("required", "weather")
    ).choices[0]
    assert done.message.tool_calls is not None
    [call] = done.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')


def test_results_of_tools_go_back(
    scripted: ScriptedBackend, scripted_client: openai.OpenAI, loaded: Any
) -> None:
    scripted.texts = ["Sunny."]
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
    }
    messages: Any = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "22 degrees"}]},
    ]
    done = scripted_client.chat.completions.create(model="chat", messages=messages, tools=[WEATHER])
    assert done.choices[0].message.content == "Sunny."
    _, tokenizer = loaded
    prompt = tokenizer.decode(scripted.prompts[-1])
    assert '"arguments": {"city": "Rome"}' in prompt
    assert "<|tool|>\n22 degrees\n<|assistant|>" in prompt
    assert prompt.startswith('{"type": "function", "function": {"name": "weather"')


def test_responses(scripted: ScriptedBackend, scripted_client: openai.OpenAI) -> None:
    scripted.texts = [CALLS]
    tool: Any = {"type": "function", "strict": False, **WEATHER["function"]}
    done = scripted_client.responses.create(
        model="chat", input="Weather?", instructions="Be brief.", tools=[tool]
    )
    assert done.status == "completed"
    assert [item.type for item in done.output] == ["reasoning", "message", "function_call", "function_call"]
    assert done.output_text == "I look."
    call = done.output[2]
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("weather", '{"city": "Rome"}')
    assert done.usage is not None
    assert done.usage.output_tokens == math.ceil(len(CALLS) / scripted.size)

    follow: Any = [
        {"role": "user", "content": "Weather?"},
        *[item.model_dump(exclude_none=True) for item in done.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "22 degrees"},
    ]
    scripted.texts = ["It is warm."]
    assert (
        scripted_client.responses.create(model="chat", input=follow, tools=[tool]).output_text
        == "It is warm."
    )


def test_streams_of_responses(scripted: ScriptedBackend, scripted_client: openai.OpenAI) -> None:
    scripted.texts = [CALLS]
    tool: Any = {"type": "function", "strict": False, **WEATHER["function"]}
    events = []
    with scripted_client.responses.stream(model="chat", input="Weather?", tools=[tool]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 4
    assert final.output_text == "I look."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    arguments = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(arguments) == '{"city": "Rome"}{}'


class FailingBackend(ScriptedBackend):
    """Fails at the second step, as a whole or for its requests."""

    def __init__(self, *, raises: bool) -> None:
        super().__init__(["abcdef" * 9])
        self.raises = raises

    def step(self) -> list[tuple[int, Event]]:
        """Fail after the first piece."""
        events = super().step()
        if all(self._sent[number] == 1 for number, _ in events):
            return events
        if self.raises:
            message = "a broken engine"
            raise RuntimeError(message)
        self._left.clear()
        return [(number, Event(finish_reason="error", error="broken weights")) for number, _ in events]


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("constrained", [False, True])
def test_failures_of_the_engine_are_told(
    raises: bool, constrained: bool, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "create_backend", lambda *_, **__: FailingBackend(raises=raises))
    wanted = {"response_format": {"type": "json_object"}} if constrained else {}
    status = 400 if constrained and not raises else 500
    with running(ServeConfig(models={"chat": str(model_path)})) as server:
        for _ in range(2):
            response = server.post("/v1/completions", {"prompt": "a", "max_tokens": 50, **wanted})
            assert response.status_code == status
        text = server.post(
            "/v1/completions", {"prompt": "a", "max_tokens": 50, "stream": True, **wanted}
        ).text
        assert '"text":"abc"' in text
        assert '"error":{' in text.splitlines()[-2]
        assert server.metric("model_requests_running") == 0
