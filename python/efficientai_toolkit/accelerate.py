"""Faster matrix products for MLX on the CPU."""

import logging
import sys

from efficientai_toolkit._engine.link import list_backends, suggest_command
from efficientai_toolkit.exceptions import DependencyError

_LOG = logging.getLogger(__name__)


def accelerate_mlx() -> None:
    """Make MLX use the engine's kernel for float32 matrix products on the CPU.

    The MLX wheel for Linux multiplies on a single thread without vector instructions. After this call
    ``mlx.core.matmul`` and everything built on it, including mlx-lm, uses all cores. Only float32
    products on the CPU are affected. Results differ by rounding, since sums are computed in another
    order.

    The change applies to the whole process and cannot be undone. Calling the function again has no
    effect. The engine's own models do not need it. On macOS the function does nothing.

    Raises
    ------
    DependencyError
        If the installed MLX does not call a replaceable BLAS function; the wheels on PyPI do.

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

    before = core.device.sgemm_calls()
    if core.device.accelerate_mlx():
        ones = mx.ones((2, 2), dtype=mx.float32)
        mx.eval(mx.matmul(ones, ones, stream=mx.cpu))  # pyright: ignore[reportUnknownMemberType]
    if core.device.sgemm_calls() == before:
        message = (
            "this build of MLX does not multiply matrices with a function that can be replaced; "
            f"fix it with `{suggest_command(list_backends())}`"
        )
        raise DependencyError(message)
    _LOG.info("accelerate_mlx: MLX multiplies float32 matrices with the engine's kernel")
