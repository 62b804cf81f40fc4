"""Libraries that only some functions need."""

from importlib import import_module
from typing import Any

from efficientai_toolkit.exceptions import DependencyError


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import a library of an optional extra.

    Parameters
    ----------
    module
        What to import.
    extra
        The extra of this package that brings it.
    purpose
        What needs it, as the subject of a sentence.

    Raises
    ------
    DependencyError
        It is not installed; the message has the command that mends it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing(error, module=module, extra=extra, purpose=purpose) from error


def missing(error: ImportError, *, module: str, extra: str, purpose: str) -> DependencyError:
    """The error that says how to install ``module``; arguments as for :func:`require`."""
    return DependencyError(
        f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}); install it with "
        f"`pip install 'efficientai-toolkit[{extra}]'`, or `uv sync --extra {extra}` in a clone"
    )
