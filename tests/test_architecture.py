"""The walls of the Python package: who may import whom, and what an ``__init__`` is for.

Everything is read with ``ast``, so that imports inside functions and under ``TYPE_CHECKING`` count too.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "python" / "efficientai_toolkit"

BELOW_ROOMS = (
    {"exceptions"},
    {"_base"},
    {"_chat_templates", "_core", "_engine", "callbacks", "hub"},
    {"accelerate", "adapters", "data", "device", "evaluation", "kernels", "models", "workspace"},
    {"study"},
    {"benchmark"},
)
"""From the bottom up. A name imports from its own row and from those before it."""

ABOVE_ROOMS = ({"distill"}, {"exports", "registry", "trackers"}, {"jobs"}, {"server"}, {"ui"}, {"cli"})


@dataclass(frozen=True)
class Import:
    """``source`` names ``target``: dotted modules of the package, which itself is ``""``."""

    source: str
    target: str
    for_types: bool


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    return {
        _name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
    }


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_package(module: str) -> bool:
    return (PACKAGE / module.replace(".", "/") / "__init__.py").is_file()


@cache
def imports() -> tuple[Import, ...]:
    """Every import of one module of the package by another."""
    return tuple(
        Import(source, target, for_types)
        for source, tree in modules().items()
        for dotted, for_types in _named(tree, source)
        for target in [_resolve(dotted)]
        if target is not None and target != source
    )


def _named(tree: ast.AST, source: str, *, for_types: bool = False) -> Iterator[tuple[str, bool]]:
    """Dotted names that a module imports, also those it hands to ``import_module`` as text."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for child in node.body:
                    yield from _named(ast.Module([child], []), source, for_types=True)
                for child in node.orelse:
                    yield from _named(ast.Module([child], []), source, for_types=for_types)
                continue
            case ast.Import():
                yield from ((alias.name, for_types) for alias in node.names)
            case ast.ImportFrom():
                base = node.module or ""
                if node.level:
                    package = source.split(".") if is_package(source) else source.split(".")[:-1]
                    parents = package[: len(package) - node.level + 1]
                    base = ".".join(filter(None, ["efficientai_toolkit", *parents, base]))
                yield from ((f"{base}.{alias.name}", for_types) for alias in node.names)
            case ast.Constant(value=str(text)) if re.fullmatch(r"efficientai_toolkit(\.\w+)+(:\w+)?", text):
                yield text.partition(":")[0], for_types
            case _:
                pass
        yield from _named(node, source, for_types=for_types)


def _resolve(dotted: str) -> str | None:
    """The module that a dotted name stands in; ``None`` for one of another package."""
    first, *rest = dotted.split(".")
    if first != "efficientai_toolkit":
        return None
    if rest[:1] == ["_core"]:
        return "_core"
    while rest and ".".join(rest) not in modules():
        rest.pop()
    return ".".join(rest)


def noun(module: str) -> str:
    """The part of the house that a module belongs to."""
    return module.partition(".")[0]


def floor(part: str) -> int:
    """How high a part stands; whatever is not named above is a room."""
    for height, row in enumerate((*BELOW_ROOMS, {"a room"}, *ABOVE_ROOMS)):
        if part in row:
            return height
    return len(BELOW_ROOMS)


def is_room(part: str) -> bool:
    return floor(part) == len(BELOW_ROOMS)


def wrong_directions() -> set[str]:
    """Imports that go up."""
    return {
        f"{found.source} imports {found.target}, which stands above it"
        for found in imports()
        if found.source and found.target and floor(noun(found.source)) < floor(noun(found.target))
    }


def tied_rooms() -> set[str]:
    """Rooms that import rooms."""
    return {
        f"{found.source} imports {found.target}: rooms never import rooms"
        for found in imports()
        if found.source and found.target and noun(found.source) != noun(found.target)
        if is_room(noun(found.source)) and is_room(noun(found.target))
    }


def tied_namespaces() -> set[str]:
    """Folders of commands that import each other, and what they share that knows one of them or a room."""
    return {
        f"{found.source} imports {found.target}: folders of commands share through cli.shared only"
        for found in imports()
        if found.source.startswith("cli.")
        for folder in [found.source.split(".")[1]]
        if is_package(f"cli.{folder}")
        if _is_of_another_folder(found.target, folder) or (folder == "shared" and is_room(noun(found.target)))
    }


def _is_of_another_folder(target: str, folder: str) -> bool:
    parts = target.split(".")
    return (
        parts[0] == "cli" and is_package(".".join(parts[:2])) and parts[1:2] not in ([folder], ["shared"], [])
    )


def own_doors() -> set[str]:
    """Files that import the ``__init__`` of a folder they lie in, or of one inside the same room."""
    return {
        f"{found.source} imports the __init__ of {found.target or 'the package'}: import the file instead"
        for found in imports()
        if is_package(found.target) and not is_package(found.source)
        if not found.target or noun(found.source) == noun(found.target)
    }


def side_doors() -> set[str]:
    """Files that load the compiled engine themselves; its types may be named everywhere."""
    return {
        f"{found.source} imports _core: only _engine loads it"
        for found in imports()
        if found.target == "_core" and not found.for_types and noun(found.source) != "_engine"
    }


def circles() -> set[str]:
    """Modules that reach each other."""
    return {f"{module} is in a circle of imports" for module in modules() if module in _reach(module)}


def _reach(start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        for one in imports():
            if one.source == module and one.target not in found and one.target:
                found.add(one.target)
                waiting.append(one.target)
    return found


def inits() -> dict[str, ast.Module]:
    return {module: tree for module, tree in modules().items() if is_package(module)}


def busy_inits() -> set[str]:
    """``__init__`` files that do something."""
    return {
        f"the __init__ of {module or 'the package'} has more than names: {ast.unparse(node).splitlines()[0]}"
        for module, tree in inits().items()
        for node in tree.body
        if not _hands_on(node)
    }


def _hands_on(node: ast.stmt) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id="__getattr__"), ast.Name(id="__dir__")])]):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.UnaryOp(operand=ast.Name(id="TYPE_CHECKING"))):
            return all(_hands_on(child) for child in [*node.body, *node.orelse])
        case _:
            return False


def unequal_names() -> set[str]:
    """``__init__`` files whose lists of names differ."""
    wrong: set[str] = set()
    for module, tree in inits().items():
        public, seen, table = _lists(tree)
        where = f"the __init__ of {module or 'the package'}"
        if public != seen:
            wrong.add(f"{where}: __all__ and what type checkers see differ in {sorted(public ^ seen)}")
        if table is not None and table != public:
            wrong.add(f"{where}: __all__ and the table of names differ in {sorted(table ^ public)}")
    return wrong


def hidden_rooms() -> set[str]:
    """Rooms that are no names of the package."""
    public, _, _ = _lists(modules()[""])
    rooms = {noun(module) for module in modules() if module not in {"", "__main__"} and is_room(noun(module))}
    return {f"{room} is missing in the lists of the package's __init__" for room in rooms - public}


def _lists(tree: ast.Module) -> tuple[set[str], set[str], set[str] | None]:
    """``__all__``, names that are imported, and the keys of the lazy table where there is one."""
    public: set[str] = set()
    lazily: set[str] = set()
    at_once: set[str] = set()
    table: set[str] | None = None
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                public = set(ast.literal_eval(node.value))
            case ast.Call(func=ast.Name(id="lazy_names"), args=[_, ast.Dict() as names]):
                table = set(ast.literal_eval(names))
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                lazily = {name for child in node.body for name in _bound(child)}
            case _:
                pass
    at_once = {name for child in tree.body for name in _bound(child)}
    return public, lazily if table is not None else at_once - {"TYPE_CHECKING"}, table


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return set()


RULES = (
    wrong_directions,
    tied_rooms,
    tied_namespaces,
    own_doors,
    side_doors,
    circles,
    busy_inits,
    unequal_names,
    hidden_rooms,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_walls_stand(rule: Callable[[], set[str]]) -> None:
    found = sorted(rule())
    assert not found, "; ".join(found)
