"""Matrix products of the engine for every MLX program in the process."""

import logging
import sys

from efficientai_toolkit._engine.link import list_backends, suggest_command
from efficientai_toolkit.exceptions import DependencyError

_LOG = logging.getLogger(__name__)


def accelerate_mlx() -> None:
    """Let MLX compute its float32 matrix products on the CPU with the engine's kernel.

    The wheel of MLX for Linux multiplies on one thread, without vector instructions. After this
    call ``mlx.core.matmul`` and all that is built on it, mlx-lm included, use all cores:
    products of float32 on the CPU only, as MLX has code of its own for other formats and devices.
    Sums are taken in another order, so results differ by rounding.

    It works at any time and for the whole process, which has to end to undo it. A second call does
    nothing. The engine's own models do not need it.

    On macOS, whose BLAS is fast, it does nothing.

    Raises
    ------
    DependencyError
        The installed MLX does not call a BLAS that could be replaced, unlike the one from PyPI.

    Examples
    --------
    >>> import efficientai_toolkit as eat
    >>> eat.accelerate_mlx()  # doctest: +SKIP
    """
    if sys.platform != "linux":
        _LOG.info("accelerate_mlx: nothing to do on %s", sys.platform)
        return
    import mlx.core as mx

    from efficientai_toolkit._engine.core import core

    before = core.sgemm_calls()
    if core.accelerate_mlx():
        ones = mx.ones((2, 2), dtype=mx.float32)
        mx.eval(mx.matmul(ones, ones, stream=mx.cpu))  # pyright: ignore[reportUnknownMemberType]
    if core.sgemm_calls() == before:
        message = (
            "this build of MLX does not multiply matrices with a function that can be replaced; "
            f"mend it with `{suggest_command(list_backends())}`"
        )
        raise DependencyError(message)
    _LOG.info("accelerate_mlx: MLX multiplies float32 matrices with the engine's kernel")
