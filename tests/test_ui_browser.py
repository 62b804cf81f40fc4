"""The page in a browser: data are uploaded, a model is trained, runs are compared, and it answers.

``EAT_SHOTS`` names a folder for screenshots of every tab before, during and after.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.ui.config import PageConfig
from support.page import running_page, write_capitals

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(400),
    # Of pandas, about Gradio.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

WIDTHS = (1440, 400)
TABS = ("Data", "Train", "Compare", "Chat", "Models", "Compress")
PATIENCE = 90_000
"""Milliseconds that the page may take on a busy machine."""


class Visit:
    """A browser at the page, which notes what it asks for."""

    def __init__(self, browser: Any, url: str) -> None:
        self.url = url
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._browser = browser
        self.page = self.open()

    def open(self) -> Any:
        """Open the page as somebody who has never seen it."""
        page = self._browser.new_page(viewport={"width": WIDTHS[0], "height": 900})
        page.set_default_timeout(PATIENCE)
        page.on("request", self._note_request)
        page.on("pageerror", self._note_error)
        page.goto(f"{self.url}/ui/")
        page.wait_for_selector("#data-choice input")
        return page

    def _note_request(self, request: Any) -> None:
        self.requests.append(request.url)

    def _note_error(self, error: Any) -> None:
        self.errors.append(str(error))

    def go(self, tab: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=tab, exact=True).first.click()

    def shoot(self, phase: str) -> None:
        """Check that nothing is wider than the window; keep a picture of each tab if it is asked for."""
        folder = os.environ.get("EAT_SHOTS")
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 900})
            for tab in TABS:
                self.go(tab)
                # Plots are drawn, and tabs filled, a moment later.
                self.page.wait_for_timeout(1500)
                assert self.page.evaluate("document.documentElement.scrollWidth") <= width, (tab, width)
                if folder is not None:
                    path = Path(folder) / f"{tab.lower()}-{phase}-{width}.png"
                    self.page.screenshot(path=path, full_page=True)
        self.page.set_viewport_size({"width": WIDTHS[0], "height": 900})


@pytest.fixture
def visit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visit]:
    with (
        running_page(PageConfig(workspace=str(tmp_path / "space")), monkeypatch) as (server, _),
        playwright.sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield Visit(browser, server.url)
        browser.close()


DATA_IS_CHOSEN = "document.querySelector('#train-data input').value == 'data/capitals.jsonl'"


def test_the_whole_way_in_a_browser(visit: Visit, tmp_path: Path) -> None:
    visit.shoot("before")
    upload(visit, write_capitals(tmp_path / "capitals.jsonl"))
    start_and_come_back(visit)
    for method in ("LoRA", "DoRA"):
        train(visit, method)
    compare(visit)
    chat(visit)
    register_and_export(visit)
    visit.shoot("after")
    outside = [url for url in visit.requests if not url.startswith((visit.url, "data:", "blob:"))]
    assert not outside
    assert len(visit.requests) > 50
    assert not visit.errors


def upload(visit: Visit, file: Path) -> None:
    """The data set is checked, shown and chosen."""
    page = visit.page
    visit.go("Data")
    page.set_input_files("#data-upload input[type=file]", file)
    page.wait_for_selector("#data-report mark")
    assert "It is city 0." in page.inner_text("#data-report mark >> nth=0")
    assert page.locator("#data-report .eat-bars").count() == 1
    page.wait_for_function("document.querySelector('#data-choice input').value == 'data/capitals.jsonl'")


def start_and_come_back(visit: Visit) -> None:
    """A training goes on while nobody looks, and is shown to whoever comes next."""
    page = visit.page
    visit.go("Train")
    page.wait_for_function(DATA_IS_CHOSEN)
    page.get_by_text("Settings", exact=True).click()
    page.fill("#train-iters input", "3000")
    page.click("#train-start")
    page.wait_for_selector("#train-state .eat-badge.running")
    page.wait_for_selector("#train-state .eat-card:has-text('training loss')")
    visit.shoot("during")
    page.close()
    page = visit.page = visit.open()
    visit.go("Train")
    page.wait_for_selector("#train-state .eat-badge.running")
    page.get_by_role("button", name="Stop", exact=True).first.click()
    page.wait_for_selector("#train-state .eat-badge.cancelled")


def train(visit: Visit, method: str) -> None:
    """Twenty steps, as the first preset has them."""
    page = visit.page
    page.wait_for_function(DATA_IS_CHOSEN)
    page.locator("#train-method input").click()
    page.get_by_role("option", name=method, exact=True).first.click()
    before = page.input_value("#train-run input")
    page.click("#train-start")
    page.wait_for_function(f"document.querySelector('#train-run input').value != {before!r}")
    name = page.input_value("#train-run input").partition(":")[0]
    page.wait_for_selector(f"#train-state .eat-state:has-text('{name}') .eat-badge.finished")


def compare(visit: Visit) -> None:
    """The last runs are chosen, and one is recommended."""
    page = visit.page
    visit.go("Compare")
    page.wait_for_selector("#compare-report .eat-card:has-text('recommended')")
    assert page.locator("#compare-table tbody tr").count() == 2
    assert "dora" in page.inner_text("#compare-report")


def chat(visit: Visit) -> None:
    """Both sides answer."""
    page = visit.page
    visit.go("Chat")
    page.wait_for_selector("#chat-adapters :text('train-')")
    page.fill("#chat-prompt textarea", "What is the capital of country 3?")
    page.click("#chat-send")
    for side in ("#chat-base", "#chat-adapted"):
        page.wait_for_selector(f"{side} .bot:not(:text-is('…'))")


def register_and_export(visit: Visit) -> None:
    """The adapter is registered, saved and merged."""
    page = visit.page
    visit.go("Models")
    page.wait_for_function("document.querySelector('#models-adapter input').value != ''")
    page.fill("#models-name input, #models-name textarea", "capitals")
    page.click("#models-register")
    page.wait_for_selector("#models-table :text('capitals/1')")
    page.click("#models-zip")
    with page.expect_download() as download:
        page.locator("#models-file a").first.click()
    assert download.value.suggested_filename.endswith(".zip")
    page.click("#models-fuse")
    page.wait_for_selector("#models-work .eat-badge.finished")
