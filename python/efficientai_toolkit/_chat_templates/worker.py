"""Answers requests on standard input, one JSON object per line, on standard output.

A request has ``templates`` (sources by name), ``variables`` (special tokens and options) and
``conversations``: objects with ``messages``, ``tools``, ``variables`` and ``renderings``, pairs of the number
of messages and ``add_generation_prompt``. The answer to each conversation is one line, a list with an object
per rendering: ``text``, ``messages`` and ``generated`` as in :class:`Rendering`, or ``error`` and ``reason``.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from functools import lru_cache
from typing import IO, Any

from jinja2 import Environment, TemplateSyntaxError

from efficientai_toolkit._chat_templates.conversation import Message, normalize, parse_arguments
from efficientai_toolkit._chat_templates.environment import create_environment
from efficientai_toolkit._chat_templates.marks import MarkedTemplate

MAX_MEMORY = 1 << 30
"""Bytes of memory of this process."""

MAX_LENGTH = 1 << 26
"""Characters of a rendered text."""

_TOO_LARGE = f"it needs more than {MAX_MEMORY >> 20} MiB of memory"
_TOOL_USE = "tool_use"
_DEFAULT = "default"


def main() -> None:
    """Serve until standard input is closed."""
    # Ctrl-C is for the process that waits for the answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_memory(MAX_MEMORY)
    serve(sys.stdin.buffer, sys.stdout.buffer)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer each line of ``requests``."""
    for line in requests:
        request = json.loads(line)
        for conversation in request["conversations"]:
            results = render(request["templates"], request["variables"], conversation)
            answers.write(json.dumps(results).encode() + b"\n")
            answers.flush()


def limit_memory(size: int) -> None:
    """Make allocations fail above ``size`` bytes; where the system cannot, end the process."""
    if sys.platform == "linux":
        # A limit that is set already may be lower, and cannot be raised.
        _, highest = resource.getrlimit(resource.RLIMIT_AS)
        size = size if highest == resource.RLIM_INFINITY else min(size, highest)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    else:
        threading.Thread(target=watch_memory, args=(size,), daemon=True).start()


def watch_memory(size: int) -> None:
    """End the process once it has used ``size`` bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit < size:
        time.sleep(0.02)
    os._exit(1)


def render(
    templates: dict[str, str], variables: dict[str, Any], conversation: dict[str, Any]
) -> list[dict[str, Any]]:
    """Render a conversation in each way that it asks for."""
    tools = conversation["tools"]
    name = _TOOL_USE if tools is not None and _TOOL_USE in templates else _DEFAULT
    try:
        template = _compile(templates[name])
    except MemoryError:
        return [_failure("compile", _TOO_LARGE)]
    except TemplateSyntaxError as error:
        return [_failure("compile", f"line {error.lineno}: {error.message}")]
    except Exception as error:  # noqa: BLE001 (any, for a template is untrusted code)
        return [_failure("compile", _describe(error))]
    shared = {"tools": tools, "documents": None, **variables, **conversation["variables"]}
    messages = normalize(conversation["messages"])
    return [
        _render(template, messages[:count], {**shared, "add_generation_prompt": prompt})
        for count, prompt in conversation["renderings"]
    ]


def _render(template: MarkedTemplate, messages: list[Message], variables: dict[str, Any]) -> dict[str, Any]:
    # Most templates expect objects, some the string.
    choices = [choice for choice in (parse_arguments(messages), messages) if choice is not None]
    failure: dict[str, Any] = {}
    for choice in choices:
        try:
            rendering = template.render(choice, variables, MAX_LENGTH)
        except MemoryError:
            return _failure("render", _TOO_LARGE)
        except Exception as error:  # noqa: BLE001 (any, for a template is untrusted code)
            failure = failure or _failure("render", _describe(error))
        else:
            generated = rendering.generated if template.has_generation else None
            return {"text": rendering.text, "messages": rendering.messages, "generated": generated}
    return failure


def _failure(kind: str, reason: str) -> dict[str, Any]:
    return {"error": kind, "reason": reason[:2000]}


def _describe(error: Exception) -> str:
    name = type(error).__name__
    return str(error) if name in {"TemplateError", "UndefinedError"} else f"{name}: {error}"


@lru_cache(maxsize=8)
def _compile(source: str) -> MarkedTemplate:
    return MarkedTemplate(_environment(), source)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return create_environment()
