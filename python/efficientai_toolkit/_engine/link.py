"""Checks of the installed MLX.

The engine links against the C++ library in the ``mlx`` wheel, whose ABI changes with every version.
The checks run before the engine is loaded, since a mismatch would cause a linker error or a crash.
"""

import sys
from collections.abc import Callable, Iterable
from importlib import metadata

from efficientai_toolkit.exceptions import DependencyError

MLX_VERSION = "0.32.2"
"""Version of MLX the engine is built against."""

_BACKENDS = {"mlx-cpu": "cpu", "mlx-cuda-12": "cuda12", "mlx-cuda-13": "cuda13"}


def is_installed(distribution: str) -> bool:
    """Return whether ``distribution`` is installed in this environment."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def list_backends(has: Callable[[str], bool] = is_installed) -> list[str]:
    """Return the installed MLX backend distributions; there should be at most one."""
    return [name for name in _BACKENDS if has(name)]


def suggest_command(backends: Iterable[str], platform: str = sys.platform) -> str:
    """Return the shell command that installs the required MLX with the current backend."""
    if platform == "darwin":
        return f"pip install mlx=={MLX_VERSION}"
    extras = [_BACKENDS[name] for name in backends]
    return f'pip install "mlx[{extras[-1] if extras else "cpu"}]=={MLX_VERSION}"'


def check_version(found: str, needed: str = MLX_VERSION) -> None:
    """Check that the MLX version is the one the engine was built against.

    Raises
    ------
    DependencyError
        If the versions differ; the message contains the command that fixes it.
    """
    if found != needed:
        message = (
            f"this build of efficientai-toolkit needs mlx {needed}, but mlx {found} is installed; "
            f"fix it with `{suggest_command(list_backends())}`"
        )
        raise DependencyError(message)


def check_backends(backends: Iterable[str]) -> None:
    """Check that at most one MLX backend is installed, since they overwrite each other's library.

    Raises
    ------
    DependencyError
        If there are several; the message contains the commands that keep one.
    """
    cuda = [name for name in backends if name != "mlx-cpu"]
    if len(list(backends)) > 1:
        keep = cuda[-1]
        drop = " ".join(name for name in backends if name != keep)
        message = (
            f"{' and '.join(backends)} are installed together and overwrite each other's libmlx; "
            f"fix it with `pip uninstall -y {drop} && "
            f"pip install --force-reinstall --no-deps {keep}=={MLX_VERSION}`"
        )
        raise DependencyError(message)


def missing_mlx(reason: ImportError) -> DependencyError:
    """Return the error for an ``mlx`` that cannot be imported."""
    command = suggest_command(list_backends())
    return DependencyError(f"cannot import mlx.core ({reason}); fix it with `{command}`")


def broken_engine(reason: ImportError) -> DependencyError:
    """Return the error for a compiled extension that cannot be loaded."""
    return DependencyError(
        f"the compiled engine efficientai_toolkit._core cannot be loaded ({reason}); "
        "build it again with `uv sync --reinstall-package efficientai-toolkit` in the checkout, or "
        "`pip install --force-reinstall --no-deps /path/to/the/checkout`"
    )
