import shutil
import tempfile
import time
from pathlib import Path

from tests.support.synthetic import record_sweep

TRIALS = 1000


def run() -> None:
    """The report of a thousand trials: seconds to write it, its size, and the time until it is drawn."""
    from convene.visualization import report

    with tempfile.TemporaryDirectory() as folder:
        sweep = record_sweep(Path(folder, "runs"), TRIALS)
        begin = time.perf_counter()
        page = report.render(report.load_data(sweep))
        print(f"written in {time.perf_counter() - begin:.1f} s, imports included; {len(page) / 1e6:.1f} MB")
        file = Path(folder, "report.html")
        file.write_text(page)
        print("drawn after " + ", ".join(f"{_drawn(file):.0f}" for _ in range(3)) + " ms in a new browser")


def _drawn(file: Path) -> float:
    """Return the milliseconds from the request to the last chart."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=60_000)
        return float(page.evaluate("document.documentElement.dataset.drawn"))
