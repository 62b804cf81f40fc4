"""Lazy imports of public names, which keep ``import`` fast."""

from collections.abc import Callable, Mapping
from importlib import import_module
from operator import attrgetter

_ROOT = __name__.partition(".")[0]


def lazy_names(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Create ``__getattr__`` and ``__dir__`` for a package with lazily imported names.

    Parameters
    ----------
    package
        ``__name__`` of the package.
    names
        Location of each public name relative to ``efficientai_toolkit``: ``"module:attribute"``, or
        ``"module"`` for a module itself.

    Returns
    -------
    tuple
        The functions ``__getattr__`` and ``__dir__``.
    """

    def get(name: str) -> object:
        if name not in names:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message)
        module, _, attribute = names[name].partition(":")
        found = import_module(f"{_ROOT}.{module}")
        return attrgetter(attribute)(found) if attribute else found

    return get, lambda: sorted(names)
