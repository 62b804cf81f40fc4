"""Suites: functions that yield cases, found in a file, by an entry point, or by ``"module:function"``."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from efficientai_toolkit.benchmark.case import Case
from efficientai_toolkit.exceptions import ConfigError

GROUP = f"{__name__.partition('.')[0]}.benchmarks"
"""Group of the entry points that name suites of installed packages."""

FUNCTION = "cases"
"""Function of a suite file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """Where a suite is found.

    Parameters
    ----------
    source
        A Python file with a function ``cases``, the name of an entry point, or ``"module:function"``.
    arguments
        Keyword arguments of the function, a JSON object.
    """

    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_file(self) -> bool:
        """Whether the source is a path."""
        return self.source.endswith(".py") or "/" in self.source

    @property
    def name(self) -> str:
        """Short name: the stem of the file, or the source."""
        return Path(self.source).stem if self.is_file else self.source

    def load(self) -> list[Case]:
        """Import the suite and return its cases; this runs code of the suite.

        Raises
        ------
        ConfigError
            If the suite cannot be found or imported, or its cases are invalid.
        """
        try:
            return _check(self._find()(**self.arguments))
        except ConfigError as error:
            message = f"{self.source}: {error}"
            raise ConfigError(message) from error
        except SyntaxError as error:
            place = f" (line {error.lineno})" if error.lineno else ""
            message = f"{self.source}: not valid Python: {error.msg}{place}"
            raise ConfigError(message) from error
        except (Exception, SystemExit) as error:
            # Whatever the code of a suite raises is the suite's fault.
            message = f"{self.source}: cannot yield its cases: {type(error).__name__}: {error}"
            raise ConfigError(message) from error

    def _find(self) -> Callable[..., Iterable[Case]]:
        if self.is_file:
            module, name = _import_file(Path(self.source)), FUNCTION
        elif ":" in self.source:
            place, _, name = self.source.partition(":")
            module = importlib.import_module(place)
        else:
            return _find_entry_point(self.source)
        found = getattr(module, name, None)
        if not callable(found):
            message = f"has no function `{name}`, which yields the cases"
            raise ConfigError(message)
        return cast("Callable[..., Iterable[Case]]", found)


def list_suites() -> dict[str, str]:
    """Return ``"module:function"`` of every installed suite by its name."""
    return {point.name: point.value for point in metadata.entry_points(group=GROUP)}


def _find_entry_point(name: str) -> Callable[..., Iterable[Case]]:
    for point in metadata.entry_points(group=GROUP, name=name):
        return cast("Callable[..., Iterable[Case]]", point.load())
    known = ", ".join(list_suites()) or "none"
    message = f"no installed suite has this name (there are: {known}); a file ends with .py"
    raise ConfigError(message)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        message = "no such file"
        raise ConfigError(message)
    # As for a script: a suite imports what lies beside it.
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        message = "not a Python file"
        raise ConfigError(message)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _check(cases: object) -> list[Case]:
    if not isinstance(cases, Iterable):
        message = f"must yield cases, not return {type(cases).__name__}"
        raise ConfigError(message)
    found: dict[str, Case] = {}
    for case in cast("Iterable[object]", cases):
        if not isinstance(case, Case):
            message = f"yields {type(case).__name__}, expected efficientai_toolkit.benchmark.Case"
            raise ConfigError(message)
        case.check()
        if case.id in found:
            message = f"yields the case `{case.id}` twice; give cases different names or params"
            raise ConfigError(message)
        found[case.id] = case
    if not found:
        message = "yields no cases"
        raise ConfigError(message)
    return list(found.values())
