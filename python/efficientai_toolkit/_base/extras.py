"""Optional dependencies."""

from importlib import import_module
from typing import Any

from efficientai_toolkit.exceptions import DependencyError


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module of an optional dependency.

    Parameters
    ----------
    module
        Name of the module.
    extra
        Extra of this package that installs it.
    purpose
        What needs the module; the subject of the error message.

    Raises
    ------
    DependencyError
        If it is not installed; the message contains the installation command.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing(error, module=module, extra=extra, purpose=purpose) from error


def missing(error: ImportError, *, module: str, extra: str, purpose: str) -> DependencyError:
    """Return the error that tells how to install ``module``; parameters as in :func:`require`."""
    return DependencyError(
        f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}); install it with "
        f"`uv sync --extra {extra}` in the checkout of efficientai-toolkit, or "
        f"`pip install '/path/to/the/checkout[{extra}]'`"
    )
