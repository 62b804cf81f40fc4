"""The only module that loads the compiled engine.

Importing it loads MLX, then the engine, and checks that their versions match.
"""

from efficientai_toolkit._engine import link

try:
    # First: the engine then finds the libmlx that this import has put into the process.
    import mlx.core as _mlx
except ImportError as error:
    raise link.missing_mlx(error) from error

# Set by the extension, and not in its stubs.
link.check_version(vars(_mlx)["__version__"])
link.check_backends(link.list_backends())

try:
    import efficientai_toolkit._core as core
except ImportError as error:
    raise link.broken_engine(error) from error

# Compares the library in the process with the headers the engine was compiled with.
core.device.start()

__all__ = ["core"]
