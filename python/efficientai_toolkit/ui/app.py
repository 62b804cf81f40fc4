"""The page put together, and served."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse

from efficientai_toolkit.server.guard import PAGE
from efficientai_toolkit.server.run import serve
from efficientai_toolkit.ui.chat import ChatTab
from efficientai_toolkit.ui.compare import CompareTab
from efficientai_toolkit.ui.compress import CompressTab
from efficientai_toolkit.ui.config import PageConfig
from efficientai_toolkit.ui.data import DataTab
from efficientai_toolkit.ui.events import QUIET, Tab
from efficientai_toolkit.ui.exports import FOLDER
from efficientai_toolkit.ui.models import ModelsTab
from efficientai_toolkit.ui.policy import PagePolicy
from efficientai_toolkit.ui.requirements import require_page
from efficientai_toolkit.ui.theme import CSS, ICON, create_theme
from efficientai_toolkit.ui.train import TrainTab
from efficientai_toolkit.ui.workbench import Workbench

TITLE = "efficientai-toolkit"

_HEAD = (
    '<div class="eat-head"><h1>efficientai-toolkit</h1>'
    "<p>Fine-tune and compress language models on this machine. Work goes on when this page is closed.</p>"
    "</div>"
)

_TABS: Mapping[str, Callable[[Any, Workbench], Tab]] = {
    "Data": DataTab,
    "Train": TrainTab,
    "Compare": CompareTab,
    "Chat": ChatTab,
    "Models": ModelsTab,
    "Compress": CompressTab,
}

_CACHED_SECS = (3600, 86400)
"""How often Gradio's copies of files are looked at, and how old they become."""


def build_page(bench: Workbench) -> Any:
    """Build the page.

    Parameters
    ----------
    bench
        What it works on.

    Returns
    -------
    gradio.Blocks

    Raises
    ------
    DependencyError
        If Gradio is not installed.
    """
    gr = require_page()
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=_CACHED_SECS) as page:
        gr.HTML(_HEAD)
        with gr.Tabs():
            for label, kind in _TABS.items():
                with gr.Tab(label) as tab:
                    refresh = kind(gr, bench).build()
                for event in (page.load, tab.select):
                    event(*refresh, **QUIET)
    return page


def mount_page(app: FastAPI, config: PageConfig) -> Workbench:
    """Mount the page on a server that has a workspace."""
    gr = require_page()
    bench = Workbench.of(app, config)

    async def mount() -> None:
        gr.mount_gradio_app(
            app,
            build_page(bench),
            path=PAGE,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            max_file_size=config.max_upload_bytes,
            allowed_paths=[str(bench.workspace.path / FOLDER)],
            theme=create_theme(gr),
            css=CSS,
            head=ICON,
        )

    # Where no event loop runs, Gradio makes some, and leaves them open.
    asyncio.run(mount())
    app.add_middleware(PagePolicy)

    # Browsers ask for the last two at the root, wherever the page is.
    for path in ("/", "/favicon.ico", "/manifest.json"):
        app.add_route(path, _redirect, include_in_schema=False)
    return bench


def _redirect(request: Request) -> RedirectResponse:
    return RedirectResponse(f"{PAGE}{request.url.path}")


def serve_page(
    config: PageConfig | None = None, *, on_start: Callable[[str], object] | None = None, **overrides: Any
) -> None:
    """Serve the page, and everything that ``serve`` does, until Ctrl-C.

    Parameters
    ----------
    config
        Configuration.
    on_start
        Called with the address of the page once connections are accepted.
    **overrides
        Fields of :class:`PageConfig` that override ``config``.

    Raises
    ------
    DependencyError
        If the extra ``ui`` is not installed.
    ToolkitError
        As in :func:`efficientai_toolkit.server.serve`.
    """
    settings = (config or PageConfig()).with_values(overrides)
    serve(
        settings,
        on_start=None if on_start is None else lambda url: on_start(f"{url}{PAGE}/"),
        prepare=lambda app: mount_page(app, settings),
    )
