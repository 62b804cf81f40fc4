"""The page: fine-tuning in a browser, on the server of ``serve``.

One file per tab (``data``, ``train``, ``compare``, ``chat``, ``models``) builds its components and has its
handlers, which are plain functions of the ``workbench``. Long work is always a job of the workspace, and
what a tab shows is read from there, so that closing the browser loses nothing.
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.ui.app import build_page, serve_page
    from efficientai_toolkit.ui.config import PageConfig

__all__ = ["PageConfig", "build_page", "serve_page"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "PageConfig": "ui.config:PageConfig",
            "build_page": "ui.app:build_page",
            "serve_page": "ui.app:serve_page",
        },
    )
