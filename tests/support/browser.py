"""A real browser for tests marked `browser`: Debian's Chromium, controlled by Playwright."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

SCREENSHOTS = Path(__file__).parents[2] / "test-output"


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """Start the browser once per session. Skip the test if it is not installed."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on the path (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work in containers, and the pages are our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """An opened page with its requests and errors."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    """Requested addresses, in order; the first is the page's own."""
    complaints: list[str] = field(default_factory=list)
    """Warnings and errors in the console, and uncaught exceptions."""

    def screenshot(self, name: str) -> None:
        """Save a picture of the whole page under `test-output/` for inspection."""
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def visit(browser: "Browser", address: str, *, width: int = 1100, height: int = 800, **context: Any) -> Visit:
    """Open an address in a new profile; `context` is passed to Playwright (`color_scheme="dark"`)."""
    page = browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
    visited = Visit(page)

    def add_complaint(message: "ConsoleMessage") -> None:
        if message.type != "log":
            visited.complaints.append(message.text)

    page.on("request", lambda request: visited.requests.append(request.url))
    page.on("console", add_complaint)
    page.on("pageerror", lambda error: visited.complaints.append(str(error)))
    page.goto(address)
    return visited
