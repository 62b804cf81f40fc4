"""Public names that are imported when they are asked for, so that a package is quick to import."""

from collections.abc import Callable, Mapping
from importlib import import_module
from operator import attrgetter

_ROOT = __name__.partition(".")[0]


def lazy_names(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Create the ``__getattr__`` and the ``__dir__`` of a package.

    Parameters
    ----------
    package
        ``__name__`` of the package.
    names
        Where each public name stands, counted from the toolkit: ``"lora.config:TrainingConfig"``, or
        ``"kernels"`` for a module.

    Returns
    -------
    tuple
        The two functions, to be assigned to module variables of these names.
    """

    def get(name: str) -> object:
        if name not in names:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message)
        module, _, attribute = names[name].partition(":")
        found = import_module(f"{_ROOT}.{module}")
        return attrgetter(attribute)(found) if attribute else found

    return get, lambda: sorted(names)
