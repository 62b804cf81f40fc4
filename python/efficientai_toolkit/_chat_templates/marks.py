"""Which message each part of a rendered conversation comes from.

Templates loop over the messages. Before compilation, a mark is added at the start of each iteration and after each loop.
Marks are empty strings of their own class: they are seen among the chunks that a template yields and vanish where a
template captures its output, so the text is that of the unchanged template.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.visitor import NodeTransformer

_BEGIN = "_begin_iteration"
_END = "_end_loop"


class Generated(str):
    """The text of a ``{% generation %}`` block."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class _Mark(str):
    """An empty string: an iteration of ``loop`` over ``message`` begins or, with ``None``, the loop ends."""

    loop: int
    message: int | None

    def __str__(self) -> str:
        return self


@dataclass(kw_only=True, slots=True)
class Rendering:
    """A rendered conversation. Positions are bytes of UTF-8."""

    text: str = ""
    messages: list[tuple[int, int, int]] = field(default_factory=list)
    """``(index, start, end)`` of the parts that come from one message, in the order of the text."""
    generated: list[tuple[int, int]] = field(default_factory=list)
    """``(start, end)`` of the ``{% generation %}`` blocks."""


class MarkedTemplate:
    """A compiled template that tells which message its output comes from."""

    def __init__(self, environment: Environment, source: str) -> None:
        tree = environment.parse(source)
        self.has_generation = any(_is_generation(block) for block in tree.find_all(nodes.CallBlock))
        marked = _MarkLoops().visit(tree)
        self._template = Template.from_code(
            environment, environment.compile(marked), dict(environment.globals)
        )

    def render(
        self, messages: Sequence[dict[str, Any]], variables: dict[str, Any], max_length: int
    ) -> Rendering:
        """Render ``messages``.

        Raises
        ------
        OverflowError
            If the text is longer than ``max_length`` characters.
        """
        context = self._template.new_context({**variables, "messages": list(messages), **_marks(messages)})
        return _assemble(self._template.root_render_func(context), max_length)


class _MarkLoops(NodeTransformer):
    """Adds the marks to every loop."""

    def __init__(self) -> None:
        self._loops = 0

    def visit_For(self, node: nodes.For) -> list[nodes.Node]:  # noqa: N802 (named after the node)
        loop = nodes.Const(self._loops)
        self._loops += 1
        self.generic_visit(node)
        if isinstance(node.target, nodes.Name):
            node.body.insert(0, _call(_BEGIN, loop, nodes.Name(node.target.name, "load")))
        return [node, _call(_END, loop)]


def _call(name: str, *arguments: nodes.Expr) -> nodes.Output:
    return nodes.Output([nodes.Call(nodes.Name(name, "load"), list(arguments), [], None, None)], lineno=1)


def _is_generation(block: nodes.CallBlock) -> bool:
    method = block.call.node
    return isinstance(method, nodes.ExtensionAttribute) and method.name == "_mark"


def _marks(messages: Sequence[dict[str, Any]]) -> dict[str, Callable[..., str]]:
    """The functions that the marked loops call."""
    indices = {id(message): index for index, message in enumerate(messages)}

    def mark(loop: int, message: int | None) -> _Mark:
        result = _Mark()
        result.loop, result.message = loop, message
        return result

    def begin(loop: int, value: object) -> str:
        index = indices.get(id(value))
        return "" if index is None else mark(loop, index)

    return {_BEGIN: begin, _END: lambda loop: mark(loop, None)}


def _assemble(chunks: Iterable[str], max_length: int) -> Rendering:
    rendering = Rendering()
    texts: list[str] = []
    length = position = 0
    # The iterations over messages that the output is in, innermost last: loop and message.
    within: list[tuple[int, int]] = []
    for chunk in chunks:
        if isinstance(chunk, _Mark):
            loops = [loop for loop, _ in within]
            if chunk.loop in loops:
                del within[loops.index(chunk.loop) :]
            if chunk.message is not None:
                within.append((chunk.loop, chunk.message))
            continue
        texts.append(chunk)
        length += len(chunk)
        if length > max_length:
            message = f"the rendered text is longer than {max_length:,} characters"
            raise OverflowError(message)
        start, position = position, position + len(chunk.encode())
        if position > start and within:
            _extend(rendering.messages, within[-1][1], start, position)
        if position > start and isinstance(chunk, Generated):
            rendering.generated.append((start, position))
    rendering.text = "".join(texts)
    return rendering


def _extend(parts: list[tuple[int, int, int]], message: int, start: int, end: int) -> None:
    """Add a part, joined to the last one where it continues it."""
    if parts and parts[-1][0] == message and parts[-1][2] == start:
        start = parts.pop()[1]
    parts.append((message, start, end))
