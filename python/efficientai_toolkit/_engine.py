"""The one door to the compiled engine.

Importing this module loads MLX, then the engine, and compares their versions. Functions
import it when they run, so that ``import efficientai_toolkit`` and the help of the command
line stay fast on machines where loading a GPU runtime takes seconds.
"""

from efficientai_toolkit import _link

try:
    # First: the engine then finds the libmlx that this import has put into the process.
    import mlx.core as _mlx
except ImportError as error:
    raise _link.missing_mlx(error) from error

# Set by the extension, and not in its stubs.
_link.check_version(vars(_mlx)["__version__"])

try:
    import efficientai_toolkit._core as core
except ImportError as error:
    raise _link.broken_engine(error) from error

# The library in the process, against the headers the engine was compiled with.
core.check_mlx_version()

__all__ = ["core"]
