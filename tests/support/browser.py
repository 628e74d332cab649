"""A real browser for tests marked `browser`: Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCREENSHOTS = Path(__file__).parents[2] / "test-output"


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """The browser, for the whole session; skips where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on the path (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        # Containers lack what Chromium's sandbox needs; the pages are our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that was opened, and what it asked for and complained of."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    """Addresses that were asked for, in order; the page's own is the first."""
    complaints: list[str] = field(default_factory=list)
    """Warnings and errors of the console, and exceptions that nothing caught."""

    def screenshot(self, name: str) -> None:
        """Keeps the whole page as a picture under `test-output/`, to be looked at."""
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def visit(browser: "Browser", address: str, *, width: int = 1100, height: int = 800, **context: Any) -> Visit:
    """Opens an address in a fresh profile; `context` is what Playwright takes (`color_scheme="dark"`)."""
    page = browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
    visited = Visit(page)
    page.on("request", lambda request: visited.requests.append(request.url))
    page.on("console", lambda said: said.type != "log" and visited.complaints.append(said.text))
    page.on("pageerror", lambda error: visited.complaints.append(str(error)))
    page.goto(address)
    return visited
