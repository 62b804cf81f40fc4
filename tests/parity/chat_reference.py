"""A small byte-level BPE tokenizer with a chat template, and what transformers makes of conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from parity import reference as ref

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# Blocks on lines of their own, so that trim_blocks and lstrip_blocks matter; Python string
# methods, a namespace, tojson and raise_exception, because real templates use them.
TEMPLATE = """\
{%- if messages[0].role not in ['system', 'user', 'assistant', 'tool'] %}
    {{- raise_exception('nobody is called ' + messages[0].role) }}
{%- endif %}
{%- set state = namespace(turns=0) %}
{% if tools %}
<|im_start|>system
Tools, one per line:
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
<|im_end|>
{% elif messages[0]['role'] != 'system' %}
<|im_start|>system
You are brief.<|im_end|>
{% endif %}
{% for message in messages %}
    {% set state.turns = state.turns + 1 %}
    {%- set content = message.content if message.content is string else '' %}
<|im_start|>{{ message['role'].lower() }}
    {%- if loop.first and message.role.startswith('sys') %} (rules){% endif %}

{{ content.strip() }}
    {%- for call in message.tool_calls or [] %}
<tool_call>{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}</tool_call>
    {%- endfor %}
<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""

CORPUS = [
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate.",
    "Rough winds do shake the darling buds of May, and summer's lease hath all too short a date.",
    "Sometime too hot the eye of heaven shines, and often is his gold complexion dimm'd.",
    "système, naïve, Grüße, Привет, 你好, 🙂 and 3.14159",
]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather & more at a <place>",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["place"],
        },
    },
}

CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "  How hot is summer? "}]},
    {
        "messages": [
            {"role": "system", "content": "Answer in verse."},
            {"role": "user", "content": "Why do winds shake the buds?\nTell me."},
            {"role": "assistant", "content": "Because it is May."},
            {"role": "user", "content": "Grüße, 你好 🙂"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": 'Weather in Paris, "today"?'},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "type": "function",
                        "function": {"name": "weather", "arguments": {"place": "Paris é", "days": 1}},
                    }
                ],
            },
            {"role": "tool", "content": '{"sky": "clear"}'},
            {"role": "assistant", "content": "Clear."},
        ],
        "tools": [WEATHER],
    },
]

TEXTS = [
    "Shall I compare thee",
    " leading space, trailing space ",
    "line\nbreak\ttab",
    "Grüße naïve Привет",
    "你好 🙂👩‍👩‍👧",
    "<|im_start|>user\nhot<|im_end|>",
    "12345 + 3.14",
    "",
]


def tokenizer() -> PreTrainedTokenizerFast:
    """Trained on a few lines; the same every time."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def rendered(chat: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """Every conversation with and without the opening of an answer."""
    cases = []
    for conversation in CONVERSATIONS:
        messages, tools = conversation["messages"], conversation.get("tools")
        for add in (False, True):
            text = chat.apply_chat_template(messages, tools=tools, add_generation_prompt=add, tokenize=False)
            ids = chat.encode(text, add_special_tokens=False)
            case = {"messages": messages, "tools": tools, "add_generation_prompt": add}
            cases.append({**case, "text": text, "ids": ids})
    return cases


def store(folder: Path, expected: Path, versions: dict[str, str]) -> None:
    """Write a one-layer model with this tokenizer, and the expected strings and ids."""
    chat = tokenizer()
    case = ref.Case({"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1})
    end = chat.convert_tokens_to_ids("<|im_end|>")
    model = ref.build(
        case,
        seed=0,
        vocab_size=len(chat),
        num_key_value_heads=1,
        intermediate_size=32,
        eos_token_id=end,
    )
    model.save_pretrained(folder)
    chat.save_pretrained(folder)
    values = {
        "made_with": versions,
        "eos_token_ids": [end],
        "vocab_size": len(chat),
        "conversations": rendered(chat),
        "texts": [
            {
                "text": text,
                "ids": (ids := chat.encode(text)),
                "plain": chat.decode(ids, skip_special_tokens=True),
                "whole": chat.decode(ids, skip_special_tokens=False),
            }
            for text in TEXTS
        ],
    }
    expected.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
