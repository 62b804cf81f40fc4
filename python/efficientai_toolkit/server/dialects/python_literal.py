"""Python literals as JSON, without Python's parser, which deep nesting can exhaust."""

import json
import re

_TOKEN = re.compile(
    r"""(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"|(?P<number>[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<word>[A-Za-z_][\w.]*)|(?P<mark>[\[\](){}:,])|(?P<space>\s+)",
    re.DOTALL,
)
_WORDS = {"True": "true", "true": "true", "False": "false", "false": "false", "None": "null", "null": "null"}
_BRACKETS = {"(": "[", ")": "]"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}


def to_json(literal: str) -> str:
    """Return the JSON of a Python literal; of anything else the text itself, as a JSON string."""
    parts: list[str] = []
    at = 0
    while at < len(literal):
        found = _TOKEN.match(literal, at)
        if found is None:
            return json.dumps(literal.strip())
        at = found.end()
        text = found[0]
        match found.lastgroup:
            case "string":
                parts.append(json.dumps(_ESCAPE.sub(_unescape, text[1:-1])))
            case "number":
                parts.append(_number(text))
            case "word":
                parts.append(_WORDS.get(text) or json.dumps(text))
            case "mark":
                if text in ")]}" and parts and parts[-1] == ",":
                    parts.pop()
                parts.append(_BRACKETS.get(text, text))
            case _:
                pass
    text = "".join(parts)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(literal.strip())
    return text


def _number(text: str) -> str:
    text = text.replace("_", "").removeprefix("+")
    whole, dot, rest = text.partition(".")
    if not dot:
        return text
    return (
        f"{whole}0.{rest or 0}"
        if whole in {"", "-"}
        else f"{whole}.{rest if rest[:1].isdigit() else '0' + rest}"
    )


def _unescape(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] in "ux" and len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, code)
