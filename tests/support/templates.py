"""Chat templates of the shapes that checkpoints have, and conversations for them."""

# ruff: noqa: E501 (a template is a line)

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
Conversation = dict[str, Any]


def said(role: str, content: object, **more: object) -> Message:
    return {"role": role, "content": content, **more}


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather & more at a <place>",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "weather", "arguments": {"place": "Köln", "days": 1e-05, "x": [1, None, True]}},
}
ANSWER = {"role": "tool", "tool_call_id": "call12345", "name": "weather", "content": "12 C"}

CONVERSATIONS: dict[str, Conversation] = {
    "two turns": {
        "messages": [
            said("user", "Hi"),
            said("assistant", "Hello"),
            said("user", "Bye"),
            said("assistant", "Ciao"),
        ]
    },
    "system": {
        "messages": [
            said("system", " Be brief. "),
            said("user", "Hi é <b> & 'you'"),
            said("assistant", " Hello 🙂 "),
        ]
    },
    "tools": {"messages": [said("user", "Hi"), said("assistant", "Hello")], "tools": [TOOL]},
    "no tools": {"messages": [said("user", "Hi"), said("assistant", "Hello")], "tools": []},
    "call": {
        "messages": [
            said("user", "Weather?"),
            said("assistant", None, tool_calls=[CALL]),
            ANSWER,
            said("assistant", "It is 12 C."),
            said("user", "Thanks"),
            said("assistant", "Welcome"),
        ],
        "tools": [TOOL],
    },
    "call with content": {
        "messages": [
            said("user", "Weather?"),
            said("assistant", "Let me see", tool_calls=[CALL, CALL]),
            ANSWER,
            said("assistant", "It is 12 C."),
        ],
        "tools": [TOOL],
    },
    "reasoning": {
        "messages": [
            said("user", "Hi"),
            said("assistant", "Hello", reasoning_content="Say hello"),
            said("user", "Bye"),
            said("assistant", "Ciao", reasoning="Say ciao"),
        ]
    },
    "thinking": {"messages": [said("user", "Hi"), said("assistant", "Hello", thinking="Say hello")]},
    "reasoning in the content": {
        "messages": [said("user", "Hi"), said("assistant", "<think>\nmm\n</think>\n\nHello")]
    },
    "list content": {
        "messages": [
            said("user", [{"type": "text", "text": "Hi"}]),
            said("assistant", [{"type": "text", "text": "Hello"}]),
        ]
    },
    "null content": {"messages": [said("user", "Hi"), said("assistant", None), said("user", "Bye")]},
    "assistant first": {
        "messages": [said("assistant", "I begin"), said("user", "Who"), said("assistant", "Me")]
    },
    "option": {
        "messages": [said("user", "Hi"), said("assistant", "Hello")],
        "chat_template_kwargs": {"enable_thinking": False, "add_vision_id": True},
    },
}
"""Keys are ``messages`` and perhaps ``tools`` and ``chat_template_kwargs``."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GENERATION = (
    "{%for m in messages%}<|im_start|>{{m.role}}\n{%if m.role=='assistant'%}{%generation%}"
    "{% if m.reasoning_content %}<think>{{m.reasoning_content}}</think>{% endif %}"
    "{{m.content}}{% for call in m.tool_calls or [] %}<call>{{call|tojson}}</call>{% endfor %}"
    "{{'<|endoftext|>' if loop.last else '<|im_end|>'}}{%endgeneration%}{%else%}{{m.content}}<|im_end|>{%endif%}"
    "\n{%endfor%}{%if add_generation_prompt%}<|im_start|>assistant\n{%endif%}"
)
"""Terminators that differ at the end."""

# What templates of checkpoints make use of, one by one.
CONSTRUCTS = [
    CHATML,
    GENERATION,
    "{{ none }}|{{ true }}|{{ x }}|{{ [1,'a',2.5] }}|{{ {'a': none} }}|{{ (1,) }}",
    "{{ 7 // 2 }}|{{ 7 / 2 }}|{{ -7 % 3 }}|{{ 2 ** 70 }}|{{ 18446744073709551616 }}|{{ 1e-7 }}|{{ 0.1 + 0.2 }}",
    "{{ 'abc'[::-1] }}{{ 'a-b'.split('-')[-1] }}{{ 'x'.startswith('x') }}{{ 'a b'.title() }}{{ 'aXb'.swapcase() }}",
    "{{ 'a\\nb\\r\\nc'.splitlines() }}{{ 'a.b.c'.rsplit('.', 1) }}{{ 'pre-x'.removeprefix('pre-') }}",
    "{{ 'x.y'.removesuffix('.y') }}{{ 'k=v'.partition('=') }}{{ 'k=v=w'.rpartition('=') }}{{ 'a'.ljust(3) }}|",
    "{{ 'a'.rjust(3, '.') }}{{ 'a'.center(3) }}{{ '7'.zfill(3) }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'aaa'|replace('a','b',2) }}",
    "{{ 'a' is sequence }}{{ none is iterable }}{{ {} is mapping }}{{ 'a' is string }}{{ 1 is integer }}{{ true is boolean }}",
    "{% if tools is iterable and tools | length > 0 %}T{% endif %}{{ undefined_thing | length }}",
    "{{ '%s and %d' % ('x', 3) }}{{ '{}-{}'.format(1, 2) }}{{ '%5.2f' | format(3.14159) }}",
    "{% set j = joiner(', ') %}{% for m in messages %}{{ j() }}{{ m.role }}{% endfor %}{% set c = cycler('a','b') %}{{ c.next() }}{{ c.next() }}",
    "{% set d = {'b': 1, 'a': 'é'} %}{{ d|tojson(sort_keys=true, separators=(',', ':')) }}{{ d|tojson(indent=2) }}{{ '<é>'|tojson(ensure_ascii=true) }}",
    "{{ {'f': 1e-5, 'g': 1e16, 'h': 1.0, 'n': none, 't': true} | tojson }}{{ tools | tojson }}",
    "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}={{ v }};{% endfor %}{{ {'b': 1, 'a': 2} | dictsort }}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{{ loop.last }}{% endfor %}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}{% call m('z', b='y') %}!{% endcall %}",
    "a\n    {% if true %}\n  b\n    {% endif %}\nc\n  {%- if true %} d {%+ endif %}\n{# note #}\ne",
    "{{ messages|selectattr('role','equalto','user')|list|length }}{{ messages|map(attribute='role')|join(',') }}{{ messages[-1].content }}",
    "{{ messages|rejectattr('role','in',['user','tool'])|map(attribute='role')|unique|list }}{{ messages[1:]|length }}{{ messages|last == messages[-1] }}",
    "{% set ns = namespace(n=0, found=false) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ namespace(a=1).a }}",
    "{% set x %} captured {{ messages[0].role }} {% endset %}{{ x|trim }}{{ x|length }}{% filter upper %}loud{% endfilter %}",
    "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token is defined }}|{{ tools is none }}|{{ documents is none }}",
    "{% for m in messages recursive %}{{ m.role }}{% endfor %}{% for m in messages if m.role == 'user' %}{{ loop.index }}{% else %}none{% endfor %}",
    "{{ messages[0]['role'] is in ['user', 'system'] }}{{ 'a' in 'abc' }}{{ 1 if messages else 2 }}{{ messages[0].missing is defined }}",
    "{% if messages[0].role == 'user' %}{{ raise_exception('no users here') }}{% endif %}{{ messages[0].role }}",
    "{% for m in messages %}{{ m.reasoning_content or m.thinking or '-' }}/{{ m.content is none }}/{{ m.content is string }};{% endfor %}",
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments.items() | list }}{% endfor %}{% endfor %}",
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}",
    "{{ messages[0].content + 1 }}",
    "{{ messages[0].content.nothing() }}",
    "{{ ''.__class__ }}",
    "{{ messages.append(1) }}",
    "{% set n = namespace(_private=1) %}",
    "{{ dict(a=1) }}{{ dict.fromkeys(['a'], 0) }}{{ dict.__init__ }}",
    "{% if %}",
    "{{ 1 | nofilter }}",
    "{% for m in messages %}{{ m.content }}",
    "{{ lipsum is defined }}{{ strftime_now('%%') }}{{ 'x' | indent(2, true) }}{{ [3,1,2]|sort }}{{ 'aXb'|lower|capitalize }}",
    "{{ '%s' % none }}{{ 'é'.encode('utf-8') }}{{ ['a','b']|join('\\n') }}{{ 5|string|length }}{{ '3'|int + 1 }}{{ 2.5|round|int }}",
]
"""Some are refused, by Jinja or by its sandbox."""
