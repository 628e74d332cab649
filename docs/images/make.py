"""Make the pictures of the README from a real sweep: `python docs/images/make.py`, in about two minutes.

Needs Debian's Chromium, which Playwright drives. `--from FOLDER` draws an earlier sweep again.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).parent
SPACE = Path("search_spaces/digits.toml")
COLUMNS = 90
WIDTH = 1000  # CSS pixels of the report
COLORS = 128  # of a PNG's palette, which makes it a third of the size
LARGEST = 120_000  # bytes of a PNG


def sweep(folder: Path) -> None:
    """Run the sweep in the folder, unless it is there, and keep what it prints."""
    shutil.copytree(IMAGES.parents[1] / SPACE.parent, folder / SPACE.parent, dirs_exist_ok=True)
    terminal = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)}
    command = [sys.executable, "-m", "convene.cli", "sweep", str(SPACE)]
    done = subprocess.run(command, cwd=folder, env=terminal, stdout=subprocess.PIPE, check=True)
    (folder / "output.txt").write_bytes(done.stdout)


def draw_terminal(page: Page, folder: Path) -> None:
    """Draw what the sweep printed."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    output = (folder / "output.txt").read_text().replace(str(folder.resolve()), "~/convene")
    # The empty line at the end has room for the descenders of the last one.
    console.print(Text.from_ansi(f"$ convene sweep {SPACE}\n{output.rstrip()}"), "", sep="\n", soft_wrap=True)
    page.set_content(console.export_svg(title="convene"))
    _save("terminal.png", page.locator("svg").first.screenshot(omit_background=True))


def draw_report(page: Page, folder: Path) -> None:
    """Draw the top of the sweep's report."""
    page.goto((folder / "mlruns/sweeps/digits/report.html").resolve().as_uri())
    page.wait_for_selector("html[data-drawn]")
    caption = page.locator("figcaption").first.bounding_box()
    assert caption, "the report begins with a chart"
    bottom = caption["y"] + caption["height"] + 24
    _save("report.png", page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": bottom}))


def _save(name: str, png: bytes) -> None:
    Image.open(io.BytesIO(png)).quantize(COLORS).save(IMAGES / name, optimize=True)
    size = (IMAGES / name).stat().st_size
    if size > LARGEST:
        sys.exit(f"{name}: {size:,} bytes, more than {LARGEST:,}")


@contextmanager
def _page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        # Containers lack what Chromium's sandbox needs; the pages are our own.
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": WIDTH, "height": 800}, device_scale_factor=1.5)
        browser.close()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--from", dest="earlier", type=Path, help="folder of an earlier sweep")
    earlier = parser.parse_args().earlier
    with tempfile.TemporaryDirectory() as temporary, _page() as page:
        folder = earlier or Path(temporary)
        if not earlier:
            sweep(folder)
        draw_terminal(page, folder)
        draw_report(page, folder)


if __name__ == "__main__":
    main()
