"""Parsers of what models write: right values wherever the text is cut, and nothing that raises."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from efficientai_toolkit.server.dialects.base import (
    CallArguments,
    CallStart,
    Delta,
    Parser,
    PlainParser,
    Reasoning,
    Text,
    Tool,
)
from efficientai_toolkit.server.dialects.detect import detect_dialect
from efficientai_toolkit.server.dialects.harmony import Harmony, HarmonyParser
from efficientai_toolkit.server.dialects.hermes import Hermes, HermesParser
from efficientai_toolkit.server.dialects.lfm2 import Lfm2, Lfm2Parser
from efficientai_toolkit.server.dialects.llama import Llama, LlamaParser
from efficientai_toolkit.server.dialects.mistral import Mistral, MistralParser
from efficientai_toolkit.server.dialects.python_literal import to_json
from efficientai_toolkit.server.dialects.reasoning import ReasoningParser, ends_with_reasoning

Make = Callable[[], Parser]
Reply = tuple[str, str, list[tuple[str, str]]]

NAMES = {"weather", "time"}
PARSERS: dict[str, Make] = {
    "hermes": HermesParser,
    "llama": lambda: LlamaParser(NAMES),
    "mistral": MistralParser,
    "lfm2": Lfm2Parser,
    "harmony": HarmonyParser,
    "reasoning": lambda: ReasoningParser(PlainParser()),
    "thinking": lambda: ReasoningParser(PlainParser(), "</think>"),
    "thinking hermes": lambda: ReasoningParser(HermesParser()),
}


def collect(deltas: list[Delta]) -> Reply:
    """Answer, reasoning, and calls with their arguments."""
    answer = reasoning = ""
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        match delta:
            case Text(text):
                answer += text
            case Reasoning(text):
                reasoning += text
            case CallStart(name):
                calls.append((name, ""))
            case CallArguments(text):
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
    return answer, reasoning, calls


def parse(make: Make, pieces: list[str]) -> Reply:
    parser = make()
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    return collect([*deltas, *parser.finish()])


def in_every_split(make: Make, text: str) -> Reply:
    """The result of the whole text, after checking that of every cut into two, and into characters."""
    whole = parse(make, [text])
    assert parse(make, list(text)) == whole
    for at in range(1, len(text)):
        assert parse(make, [text[:at], text[at:]]) == whole, (text[:at], text[at:])
    return whole


PARIS = '{"city": "Paris", "days": [1, {"a": "}]\\""}]}'

CASES: list[tuple[str, str, Reply]] = [
    ("hermes", "Just text < here.\n", ("Just text < here.\n", "", [])),
    (
        "hermes",
        f'Let me look.\n\n<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
        ("Let me look.", "", [("weather", PARIS), ("time", "{}")]),
    ),
    (
        "hermes",
        '<tool_call>{"arguments": {"a": 1}, "name": "time"}</tool_call> Done. ',
        ("Done. ", "", [("time", '{"a": 1}')]),
    ),
    ("hermes", '<tool_call>{"name": "time"}</tool_call>', ("", "", [("time", "{}")])),
    ("hermes", '<tool_call>{"name": "time", "arguments": null}', ("", "", [("time", "{}")])),
    (
        "hermes",
        '<tool_call>{"name": "time", "arguments": "{\\"a\\": 1}"}</tool_call>',
        ("", "", [("time", '{"a": 1}')]),
    ),
    (
        "hermes",
        '<tool_call>{"name": "time", "arguments": {}}\n<tool_call>{"name": "weather", "arguments": '
        "{}}</tool_call>",
        ("", "", [("time", "{}"), ("weather", "{}")]),
    ),
    (
        "hermes",
        "a <tool_call>no json</tool_call> b",
        ("a <tool_call>no json</tool_call> b", "", []),
    ),
    ("hermes", '<tool_call>{"name": "time", "arguments": {"a": [1, 2', ("", "", [("time", '{"a": [1, 2')])),
    ("hermes", '<tool_call>{"argum', ('<tool_call>{"argum', "", [])),
    ("llama", "Plain { text", ("Plain { text", "", [])),
    ("llama", f'{{"name": "weather", "parameters": {PARIS}}}', ("", "", [("weather", PARIS)])),
    (
        "llama",
        '<|python_tag|>{"type": "function", "name": "time", "parameters": {}}; {"name": "weather", '
        '"parameters": {}}',
        ("", "", [("time", "{}"), ("weather", "{}")]),
    ),
    (
        "llama",
        'I call: <|python_tag|>{"name": "time", "parameters": {"a": 1}}',
        ("I call:", "", [("time", '{"a": 1}')]),
    ),
    ("llama", '{"name": "unknown", "parameters": {}}', ('{"name": "unknown", "parameters": {}}', "", [])),
    ("llama", '{"answer": 42} is it', ('{"answer": 42} is it', "", [])),
    (
        "mistral",
        f'Wait. [TOOL_CALLS] [{{"name": "weather", "arguments": {PARIS}}}, {{"name": "time", "arguments": '
        f"{{}}}}]",
        ("Wait.", "", [("weather", PARIS), ("time", "{}")]),
    ),
    (
        "mistral",
        f"[TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]time[CALL_ID]123456789[ARGS]{{}}",
        ("", "", [("weather", PARIS), ("time", "{}")]),
    ),
    ("mistral", '[TOOL_CALLS]time{"a": 1}', ("", "", [("time", '{"a": 1}')])),
    ("mistral", "an [array] of [TOOL", ("an [array] of [TOOL", "", [])),
    (
        "lfm2",
        "Sure.<|tool_call_start|>[weather(city='It\\'s', days=[1, 2,], at=(1, None)), "
        "time()]<|tool_call_end|> ok",
        ("Sure.ok", "", [("weather", '{"city": "It\'s", "days": [1,2], "at": [1,null]}'), ("time", "{}")]),
    ),
    (
        "lfm2",
        '<|tool_call_start|>[{"name": "time", "arguments": {"a": true}}]<|tool_call_end|>',
        ("", "", [("time", '{"a": true}')]),
    ),
    ("lfm2", '<|tool_call_start|>[time(a="x", b="unfin', ("", "", [("time", '{"a": "x"}')])),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hm, "
        "weather.<|end|><|start|>assistant<|channel|>final<|message|>Sunny < rain.",
        ("Sunny < rain.", "Hm, weather.", []),
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.weather <|constrain|>json<|message|>{PARIS}<|call|>",
        ("", "Look.", [("weather", PARIS)]),
    ),
    (
        "harmony",
        " to=functions.time<|channel|>commentary json<|message|><|call|>",
        ("", "", [("time", "{}")]),
    ),
    ("harmony", "No marks.", ("No marks.", "", [])),
    ("reasoning", "\n<think>\nLet me.\n</think>\n\nYes.", ("Yes.", "Let me.", [])),
    ("reasoning", "[THINK]a[/THINK]b", ("b", "a", [])),
    ("reasoning", "<thin air", ("<thin air", "", [])),
    ("reasoning", "<think>never ends", ("", "never ends", [])),
    ("thinking", "\nHm.\n</think>\nYes.\n", ("Yes.\n", "Hm.", [])),
    (
        "thinking hermes",
        '<think>\n\n</think>\n\n<tool_call>{"name": "time", "arguments": {}}</tool_call>',
        ("", "", [("time", "{}")]),
    ),
]


@pytest.mark.parametrize(("dialect", "text", "expected"), CASES)
def test_values_do_not_depend_on_where_the_text_is_cut(dialect: str, text: str, expected: Reply) -> None:
    assert in_every_split(PARSERS[dialect], text) == expected


PIECES = (
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|start|>",
    "<|call|>",
    "<think>",
    "</think>",
    "analysis",
    "final",
    " to=functions.time",
    '{"name": "time"',
    '"arguments": ',
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    '"',
    "'",
    "\\",
    ",",
    ":",
    "=",
    "time(",
    "a=1",
    "\n",
    " ",
    "x",
    "\ud800",
    "\0",
    "é",
    "1e999",
    "-",
    "null",
)


@pytest.mark.parametrize("dialect", PARSERS)
def test_no_text_raises_and_no_cut_matters(dialect: str) -> None:
    rng = random.Random(7)
    for _ in range(300):
        pieces = rng.choices(PIECES, k=rng.randrange(1, 30))
        text = "".join(pieces)
        whole = parse(PARSERS[dialect], [text])
        assert parse(PARSERS[dialect], pieces) == whole, text
        assert parse(PARSERS[dialect], list(text)) == whole, text


@pytest.mark.parametrize("dialect", PARSERS)
@pytest.mark.parametrize(
    "begin",
    [
        '<tool_call>{"name": "time", "arguments": ',
        '{"name": "time", "parameters": ',
        "[TOOL_CALLS]time[ARGS]",
        "<|tool_call_start|>[time(a=",
        " to=functions.time<|message|>",
    ],
)
@pytest.mark.parametrize("nest", ["[", '{"a":', "(", "-", '"'])
def test_deep_nesting_is_only_text(dialect: str, begin: str, nest: str) -> None:
    parser = PARSERS[dialect]()
    text = begin + nest * 20_000
    collect([*parser.feed(text), *parser.finish()])
    closed = begin + "[" * 20_000 + "]" * 20_000 + ")]"
    collect([*PARSERS[dialect]().feed(closed)])


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("'a\\n\\x41\\u00e9'", "a\nAé"),
        ("-.5", -0.5),
        ("1_000", 1000),
        ("1.", 1.0),
        ("2.e3", 2000.0),
        ("(1, [True, None], {'a': (2,)},)", [1, [True, None], {"a": [2]}]),
        ("London", "London"),
        ("f(x)", "f(x)"),
        ("@", "@"),
        ("", ""),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_python_literals_become_json(literal: str, value: object) -> None:
    assert json.loads(to_json(literal)) == value


TOOLS = [
    Tool(name="weather", parameters={"type": "object"}),
    Tool(name="time", parameters={"type": "object"}),
]


@pytest.mark.parametrize("dialect", [Hermes(), Llama(), Mistral(), Mistral(has_args=True), Lfm2(), Harmony()])
def test_a_forced_answer_is_read_as_a_call(dialect: Hermes | Llama | Mistral | Lfm2 | Harmony) -> None:
    parser = dialect.open(NAMES)
    forced = dialect.force(TOOLS[:1])
    deltas = [*parser.feed(forced.prefix), *parser.feed('{"city": "Rome"}'), *parser.finish()]
    assert collect(deltas) == ("", "", [("weather", '{"city": "Rome"}')])
    assert forced.schema == {"type": "object"}
    either = dialect.force(TOOLS)
    parser = dialect.open(NAMES)
    key = "parameters" if isinstance(dialect, Llama) else "arguments"
    body = "time<|message|>{}" if isinstance(dialect, Harmony) else f'{{"name": "time", "{key}": {{}}}}'
    assert collect([*parser.feed(either.prefix), *parser.feed(body), *parser.finish()]) == (
        "",
        "",
        [("time", "{}")],
    )


def test_mistral_ids_are_what_its_templates_take() -> None:
    identifier = Mistral().new_id()
    assert len(identifier) == 9
    assert identifier.isalnum()


@pytest.mark.parametrize(
    ("template", "model_type", "name"),
    [
        ("{{ '<tool_call>' }}", "qwen3", "hermes"),
        ("<|python_tag|>", "llama", "llama"),
        ("[TOOL_CALLS]", "llama", "mistral"),
        ("<|tool_list_start|>", "lfm2", "lfm2"),
        ("<|channel|>analysis", "gpt_oss", "harmony"),
        ("", "gpt_oss", "harmony"),
        ("", "llama", "hermes"),
    ],
)
@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_the_template_tells_the_dialect(
    template: str, model_type: str, name: str, file: str, tmp_path: Path
) -> None:
    content = template if file.endswith("jinja") else json.dumps({"chat_template": template})
    (tmp_path / file).write_text(content)
    assert detect_dialect(tmp_path, model_type).name == name
    assert detect_dialect(tmp_path, model_type, "lfm2").name == "lfm2"


@pytest.mark.parametrize(
    ("prompt", "end"), [("a<think>\n", "</think>"), ("[THINK]", "[/THINK]"), ("<think></think>", None)]
)
def test_a_prompt_may_begin_the_reasoning(prompt: str, end: str | None) -> None:
    assert ends_with_reasoning(prompt) == end
