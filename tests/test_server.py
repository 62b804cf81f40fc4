"""The server as OpenAI's client uses it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openai
import pydantic
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.server.config import ServeConfig
from support.server import TIME, WEATHER, Running, adapter, allowed, chat_model, running

QUESTION: Any = [{"role": "user", "content": "Who goes there?"}]
GREEDY: Any = {"temperature": 0.0, "max_tokens": 8}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pirate = adapter(tmp_path_factory.mktemp("adapters") / "pirate", 1)
    config = ServeConfig(models={"chat": str(model_path)}, adapters={"pirate": str(pirate)})
    with running(config) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def loaded(model_path: Path) -> Any:
    return eat.load(model_path)


def test_chat_gives_what_python_does(client: openai.OpenAI, loaded: Any) -> None:
    done = client.chat.completions.create(model="chat", messages=QUESTION, **GREEDY)
    assert done.choices[0].message.content == eat.generate(loaded[0], loaded[1], QUESTION, max_tokens=8)
    assert done.choices[0].message.role == "assistant"
    assert done.choices[0].finish_reason == "length"
    _, tokenizer = loaded
    prompt = tokenizer.encode(tokenizer.apply_chat_template(QUESTION), add_special_tokens=False)
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(prompt), 8)
    assert done.usage.total_tokens == len(prompt) + 8


def test_a_stream_adds_up_to_the_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="chat", messages=QUESTION, **GREEDY)
    chunks = list(
        client.chat.completions.create(
            model="chat", messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    parts = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(part.delta.content or "" for part in parts) == whole.choices[0].message.content
    assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + ["length"]
    assert len(parts) > 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_choices_and_seeds(client: openai.OpenAI) -> None:
    def ask(seed: int | None) -> list[str | None]:
        done = client.chat.completions.create(
            model="chat", messages=QUESTION, n=3, seed=seed, temperature=1.5, max_tokens=6
        )
        assert [choice.index for choice in done.choices] == [0, 1, 2]
        assert done.usage is not None
        assert done.usage.completion_tokens <= 18
        return [choice.message.content for choice in done.choices]

    first = ask(5)
    assert first == ask(5)
    assert len(set(first)) > 1
    assert ask(None) != ask(None)


def test_streams_of_several_choices_have_their_index(client: openai.OpenAI) -> None:
    texts = ["", ""]
    for chunk in client.chat.completions.create(
        model="chat", messages=QUESTION, n=2, stream=True, seed=1, temperature=1.0, max_tokens=5
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    whole = client.chat.completions.create(
        model="chat", messages=QUESTION, n=2, seed=1, temperature=1.0, max_tokens=5
    )
    assert texts == [choice.message.content for choice in whole.choices]


def test_stop_strings_end_the_text(client: openai.OpenAI) -> None:
    whole = (
        client.completions.create(model="chat", prompt="To be", temperature=0, max_tokens=12).choices[0].text
    )
    stop = whole[6:9]
    done = client.completions.create(
        model="chat", prompt="To be", temperature=0, max_tokens=12, stop=[stop, ""]
    )
    assert done.choices[0].text == whole[: whole.index(stop)]
    assert done.choices[0].finish_reason == "stop"


def test_log_probabilities_of_a_chat(client: openai.OpenAI, loaded: Any) -> None:
    done = client.chat.completions.create(
        model="chat", messages=QUESTION, logprobs=True, top_logprobs=3, **GREEDY
    )
    model, tokenizer = loaded
    ids = tokenizer.encode(tokenizer.apply_chat_template(QUESTION), add_special_tokens=False)
    assert done.choices[0].logprobs is not None
    content = done.choices[0].logprobs.content
    assert content is not None
    assert len(content) == 8
    for each in content:
        logits = np.asarray(model(np.array([ids])))[0, -1].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        best = np.argsort(-logprobs)[:3]
        assert [top.token for top in each.top_logprobs] == [tokenizer.decode([int(i)]) for i in best]
        assert np.allclose([top.logprob for top in each.top_logprobs], logprobs[best], atol=1e-4)
        assert each.logprob == pytest.approx(each.top_logprobs[0].logprob)
        assert bytes(each.bytes or []).decode() == each.token
        ids.append(int(best[0]))
    stream = client.chat.completions.create(
        model="chat", messages=QUESTION, logprobs=True, top_logprobs=3, stream=True, **GREEDY
    )
    streamed = [
        each
        for chunk in stream
        if chunk.choices[0].logprobs
        for each in chunk.choices[0].logprobs.content or []
    ]
    assert [each.token for each in streamed] == [each.token for each in content]


def test_completions_echo_the_prompt_with_its_log_probabilities(client: openai.OpenAI, loaded: Any) -> None:
    model, tokenizer = loaded
    text = "Now is the winter of our discontent"
    ids = tokenizer.encode(text)
    logits = np.asarray(model(np.array([ids])))[0].astype(np.float64)
    logprobs = logits - logits.max(-1, keepdims=True)
    logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))
    expected = [logprobs[at, token] for at, token in enumerate(ids[1:])]
    for max_tokens in (0, 1):
        for count in (0, 2):
            done = client.completions.create(
                model="chat", prompt=ids, echo=True, logprobs=count, max_tokens=max_tokens, temperature=0
            ).choices[0]
            found = done.logprobs
            assert found is not None
            assert found.token_logprobs is not None
            assert found.tokens is not None
            assert found.text_offset is not None
            assert "".join(found.tokens) == done.text
            assert done.text.startswith(f"<|endoftext|>{text}")
            assert found.token_logprobs[0] is None
            assert np.allclose(np.array(found.token_logprobs[1 : len(ids)], float), expected, atol=1e-4)
            assert len(found.tokens) == len(ids) + max_tokens
            assert [
                done.text[at:].startswith(t) for at, t in zip(found.text_offset, found.tokens, strict=True)
            ]
            if count:
                assert found.top_logprobs is not None
                assert all(tops is None or 2 <= len(tops) <= 3 for tops in found.top_logprobs)


def test_the_token_before_a_text_is_not_part_of_it(client: openai.OpenAI) -> None:
    done = client.completions.create(
        model="chat", prompt="To be", echo=True, logprobs=0, max_tokens=0
    ).choices[0]
    assert done.text == "To be"
    assert done.logprobs is not None
    assert done.logprobs.tokens == ["<|endoftext|>", "To", " be"]
    assert done.logprobs.text_offset == [0, 0, 2]


@pytest.mark.parametrize(
    ("prompt", "count"), [("To be", 1), (["To be", "or not"], 2), ([20, 30], 1), ([[20, 30], [40]], 2)]
)
def test_completions_take_texts_and_ids(client: openai.OpenAI, prompt: Any, count: int) -> None:
    done = client.completions.create(model="chat", prompt=prompt, max_tokens=4, temperature=0, n=2)
    assert [choice.index for choice in done.choices] == list(range(2 * count))
    # Choices of one prompt are alike without randomness.
    assert [choice.text for choice in done.choices[::2]] == [choice.text for choice in done.choices[1::2]]
    streamed = [""] * (2 * count)
    for chunk in client.completions.create(
        model="chat", prompt=prompt, max_tokens=4, temperature=0, n=2, stream=True
    ):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in done.choices]


def test_penalties_and_bias_change_the_text(client: openai.OpenAI, loaded: Any) -> None:
    _, tokenizer = loaded
    [favourite] = tokenizer.encode(" the", add_special_tokens=False)
    biased = client.completions.create(
        model="chat", prompt="To", temperature=0, max_tokens=3, logit_bias={str(favourite): 100}
    )
    assert biased.choices[0].text == " the the the"
    settings: Any = {"model": "chat", "prompt": "To", "temperature": 0, "max_tokens": 40}
    plain = client.completions.create(**settings).choices[0].text
    for penalty in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"repetition_penalty": 2.0}):
        spread = client.completions.create(**settings, extra_body=penalty).choices[0].text
        assert len(set(spread.split())) > len(set(plain.split()))


def test_adapters_are_named_by_the_model(client: openai.OpenAI, server: Running) -> None:
    listed = [model.id for model in client.models.list()]
    assert listed == ["chat", "chat:pirate"]
    assert client.models.retrieve("chat:pirate").id == "chat:pirate"
    plain = client.chat.completions.create(model="chat", messages=QUESTION, **GREEDY)
    pirate = client.chat.completions.create(model="chat:pirate", messages=QUESTION, **GREEDY)
    assert pirate.model == "chat:pirate"
    assert pirate.choices[0].message.content != plain.choices[0].message.content
    again = client.chat.completions.create(model="chat", messages=QUESTION, **GREEDY)
    assert again.choices[0].message.content == plain.choices[0].message.content


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "gpt-9"}, 404, "the model 'gpt-9' does not exist"),
        ({"model": "chat:none"}, 404, "the model 'chat:none' does not exist"),
        ({"messages": []}, 400, "`messages`"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "'image_url'"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "`messages.0.role`"),
        ({"max_tokens": 0}, 400, "`max_tokens`"),
        ({"max_tokens": 600}, 400, "the context of the model is 512"),
        ({"messages": [{"role": "user", "content": "x" * 4000}]}, 400, "tokens, more than the 512"),
        ({"temperature": "hot"}, 400, "`temperature`"),
        ({"n": 100}, 400, "`n`"),
        ({"top_logprobs": 3}, 400, "needs `logprobs`"),
        ({"tool_choice": "required"}, 400, "there are no `tools`"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}}, 400, "'f'"),
        ({"response_format": {"type": "json_schema"}}, 400, "`json_schema` is missing"),
        ({"response_format": {"type": "regex"}}, 400, "`regex` is missing"),
        ({"tools": [WEATHER], "tool_choice": allowed("auto", "f")}, 400, "allows 'f'"),
        ({"response_format": {"type": "yaml"}}, 400, "`response_format.type`"),
        ({"logit_bias": {"a": 1.0}}, 400, "logit_bias"),
        ({"logit_bias": {"99999": 1.0}}, 400, "logit_bias"),
        ({"continue_final_message": True}, 400, "needs a last message of the assistant"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(
    server: Running, change: dict[str, Any], status: int, message: str
) -> None:
    for stream in (False, True):
        body = {"model": "chat", "messages": QUESTION, "max_tokens": 2, "stream": stream, **change}
        response = server.post("/v1/chat/completions", body)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert message in error["message"]
        assert error["type"] == "invalid_request_error"
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        ({"type": "json_object"}, r"\{.*\}"),
        ({"type": "regex", "regex": "(yes|no)!"}, "(yes|no)!"),
        ({"type": "grammar", "grammar": 'start: "A" B\nB: /[x-z]{3}/'}, "A[x-z]{3}"),
    ],
)
def test_answers_have_the_format(server: Running, wanted: Any, pattern: str) -> None:
    body = {"messages": QUESTION, "response_format": wanted, "max_tokens": 200, "temperature": 0}
    choice = server.post("/v1/chat/completions", body).json()["choices"][0]
    if choice["finish_reason"] == "stop":
        assert re.fullmatch(pattern, choice["message"]["content"], re.DOTALL)
    else:
        assert wanted["type"] == "json_object"


def test_answers_follow_a_schema(client: openai.OpenAI) -> None:
    class Person(pydantic.BaseModel):
        age: int = pydantic.Field(ge=0, le=120)
        likes: list[Literal["tea", "ale"]] = pydantic.Field(max_length=2)

    done = client.chat.completions.parse(
        model="chat", messages=QUESTION, response_format=Person, seed=1, max_tokens=60
    )
    assert done.choices[0].message.parsed is not None
    text = client.responses.parse(model="chat", input="Who?", text_format=Person, max_output_tokens=60)
    assert text.output_parsed is not None


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "https://example.com/a"}}},
        {"type": "regex", "regex": "("},
        {"type": "grammar", "grammar": "start: missing"},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_formats_that_cannot_be_compiled_are_refused(server: Running, wanted: Any, stream: bool) -> None:
    body = {"messages": QUESTION, "response_format": wanted, "stream": stream}
    response = server.post("/v1/chat/completions", body)
    assert response.status_code == 400
    assert "response_format" in response.json()["error"]["message"]


def test_earlier_prompts_are_not_computed_again(client: openai.OpenAI) -> None:
    text = "A prompt that is long enough to be kept, and has not been seen before: " * 3
    for cached in (False, True):
        done = client.completions.create(model="chat", prompt=text, max_tokens=2, temperature=0)
        assert done.usage is not None
        assert done.usage.prompt_tokens_details is not None
        assert ((done.usage.prompt_tokens_details.cached_tokens or 0) > 40) == cached


def test_the_beginning_of_an_answer_is_continued(client: openai.OpenAI, loaded: Any) -> None:
    _, tokenizer = loaded
    begun: Any = [*QUESTION, {"role": "assistant", "content": "The king"}]
    done = client.chat.completions.create(
        model="chat", messages=begun, extra_body={"continue_final_message": True}, **GREEDY
    )
    text = tokenizer.apply_chat_template(QUESTION) + "The king"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert done.choices[0].message.content == eat.generate(loaded[0], loaded[1], ids, max_tokens=8)


def test_a_forced_call_names_its_tool(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(
        model="chat", messages=QUESTION, tools=[WEATHER, TIME], max_tokens=4, temperature=0,
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )  # fmt: skip
    assert done.choices[0].message.tool_calls is not None
    [call] = done.choices[0].message.tool_calls
    assert call.type == "function"
    assert call.function.name == "weather"
    assert call.id.startswith("call_")
    # The arguments follow the schema, as far as the tokens go.
    assert call.function.arguments.startswith("{")


def test_a_response_that_is_cut_off_is_incomplete(client: openai.OpenAI) -> None:
    done = client.responses.create(model="chat", input="Hello", max_output_tokens=3, temperature=0)
    assert done.status == "incomplete"
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"
    with pytest.raises(openai.BadRequestError, match="stores nothing"):
        client.responses.create(model="chat", input="Hello", previous_response_id="resp_1")
