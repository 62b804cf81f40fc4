"""The page on a server, and rows to upload."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI

from efficientai_toolkit.server.app import create_app
from efficientai_toolkit.ui.app import mount_page
from efficientai_toolkit.ui.config import PageConfig
from efficientai_toolkit.ui.workbench import Workbench
from support import server as serving
from support.server import Running


def write_capitals(path: Path, count: int = 40) -> Path:
    """Write questions and answers."""
    rows = [
        {"prompt": f"What is the capital of country {n}?", "completion": f"It is city {7 * n % 50}."}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@contextmanager
def running_page(config: PageConfig, monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[Running, Workbench]]:
    """Serve the page."""
    benches: list[Workbench] = []

    def create_with_page(settings: PageConfig) -> FastAPI:
        app = create_app(settings)
        benches.append(mount_page(app, settings))
        return app

    monkeypatch.setattr(serving, "create_app", create_with_page)
    with serving.running(config) as server:
        yield server, benches[0]
