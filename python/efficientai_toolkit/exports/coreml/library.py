"""coremltools, without what it prints."""

import io
import logging
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from types import ModuleType
from warnings import catch_warnings, simplefilter

from efficientai_toolkit._base.extras import require


def import_coremltools() -> ModuleType:
    """Import coremltools.

    Raises
    ------
    DependencyError
        If it is not installed.
    """
    with quiet():
        module: ModuleType = require("coremltools", extra="coreml", purpose="the Core ML export")
    return module


@contextmanager
def quiet() -> Generator[None]:
    """Hide warnings about other libraries and platforms, and progress bars of passes that take no time."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with catch_warnings(), redirect_stderr(io.StringIO()):
            simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
