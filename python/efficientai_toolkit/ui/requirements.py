"""The packages of the extra ``ui``."""

import os
from typing import Any

from efficientai_toolkit._base.extras import require

_EXTRA = "ui"
_PURPOSE = "the page"


def require_page() -> Any:
    """Return Gradio, which is told to ask nobody.

    Raises
    ------
    DependencyError
        If it, or what the server needs, is not installed.
    """
    # Read when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for module in ("fastapi", "uvicorn", "prometheus_client", "pandas"):
        require(module, extra=_EXTRA, purpose=_PURPOSE)
    return require("gradio", extra=_EXTRA, purpose=_PURPOSE)
