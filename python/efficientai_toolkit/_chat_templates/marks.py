"""Which message each part of a rendered conversation comes from.

Templates loop over the messages, or over their indices. Before compilation, a mark is added at the start of
each iteration, after each loop, and where a loop assigns an element of a list. Marks are empty strings of
their own class: they are seen among the chunks that a template yields and vanish where a template captures
its output, so the text is that of the unchanged template.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.visitor import NodeTransformer

_BEGIN = "_begin_iteration"
_SELECT = "_select_message"
_END = "_end_loop"


class Generated(str):
    """The text of a ``{% generation %}`` block."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class _Mark(str):
    """An empty string: what follows belongs to ``message``, or with ``None`` to what is around ``loop``."""

    loop: int
    message: int | None
    selected: bool
    """Whether the message was assigned, which does not count in a loop over messages."""

    def __str__(self) -> str:
        return self


@dataclass(kw_only=True, slots=True)
class Rendering:
    """A rendered conversation. Positions are bytes of UTF-8."""

    text: str = ""
    messages: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    """``(index, start, end)`` of the parts that come from one message, in the order of the text."""
    generated: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
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
        self._count = 0
        self._open: list[int] = []

    def visit_For(self, node: nodes.For) -> list[nodes.Node]:  # noqa: N802 (named after the node)
        loop = self._count
        self._count += 1
        self._open.append(loop)
        self.generic_visit(node)
        self._open.pop()
        value = (
            nodes.Name(node.target.name, "load") if isinstance(node.target, nodes.Name) else nodes.Const(None)
        )
        node.body.insert(0, _call(_BEGIN, loop, value))
        return [node, _call(_END, loop)]

    def visit_Assign(self, node: nodes.Assign) -> list[nodes.Node]:  # noqa: N802 (named after the node)
        if self._open and isinstance(node.target, nodes.Name) and isinstance(node.node, nodes.Getitem):
            return [node, _call(_SELECT, self._open[-1], nodes.Name(node.target.name, "load"))]
        return [node]


def _call(name: str, loop: int, *arguments: nodes.Expr) -> nodes.Output:
    function = nodes.Name(name, "load")
    return nodes.Output([nodes.Call(function, [nodes.Const(loop), *arguments], [], None, None)], lineno=1)


def _is_generation(block: nodes.CallBlock) -> bool:
    method = block.call.node
    return isinstance(method, nodes.ExtensionAttribute) and method.name == "_mark"


def _marks(messages: Sequence[dict[str, Any]]) -> dict[str, Callable[..., str]]:
    """The functions that the marked loops call."""
    indices = {id(message): index for index, message in enumerate(messages)}

    def mark(loop: int, value: object = None, *, selected: bool = False) -> _Mark:
        result = _Mark()
        result.loop, result.message, result.selected = loop, indices.get(id(value)), selected
        return result

    def select(loop: int, value: object) -> str:
        return mark(loop, value, selected=True) if id(value) in indices else ""

    return {_BEGIN: mark, _SELECT: select, _END: mark}


def _assemble(chunks: Iterable[str], max_length: int) -> Rendering:
    rendering = Rendering()
    texts: list[str] = []
    length = position = 0
    # The marks of the loops that the output is in, innermost last.
    within: list[_Mark] = []
    for chunk in chunks:
        if isinstance(chunk, _Mark):
            _enter(within, chunk)
            continue
        texts.append(chunk)
        length += len(chunk)
        if length > max_length:
            message = f"the rendered text is longer than {max_length:,} characters"
            raise OverflowError(message)
        start, position = position, position + len(chunk.encode())
        if position > start and within:
            _extend(rendering.messages, within[-1].message, start, position)
        if position > start and isinstance(chunk, Generated):
            rendering.generated.append((start, position))
    rendering.text = "".join(texts)
    return rendering


def _enter(within: list[_Mark], mark: _Mark) -> None:
    at = next((at for at, known in enumerate(within) if known.loop == mark.loop), len(within))
    if mark.selected and at < len(within) and not within[at].selected:
        return
    del within[at:]
    if mark.message is not None:
        within.append(mark)


def _extend(parts: list[tuple[int, int, int]], message: int | None, start: int, end: int) -> None:
    """Add a part, joined to the last one where it continues it."""
    if message is None:
        return
    if parts and parts[-1][0] == message and parts[-1][2] == start:
        start = parts.pop()[1]
    parts.append((message, start, end))
