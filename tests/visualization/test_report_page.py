"""The report in a real browser: on a screen, in the dark, on a phone and on paper."""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from convene.visualization import figures, report
from convene.visualization.report import ReportData
from tests.support.browser import SCREENSHOTS, Visit, visit
from tests.support.synthetic import record_sweep

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return report.load_data(record_sweep(tmp_path_factory.mktemp("browser"), trials=80))


@pytest.fixture(scope="module")
def address(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("page") / "report.html"
    page.write_text(report.render(data))
    return page.as_uri()


def open_page(browser: "Browser", address: str, **context: Any) -> Visit:
    """Open the page and wait for its charts."""
    visited = visit(browser, address, **context)
    visited.page.wait_for_selector("html[data-drawn]", timeout=60_000)
    return visited


def rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[start : start + 2], 16) for start in (1, 3, 5)))


def ink(visited: Visit) -> tuple[str, str]:
    """Return the colours of the page's text and of the charts' axes."""
    return (
        visited.page.evaluate("getComputedStyle(document.body).color"),
        visited.page.locator("#history .xtick text").first.evaluate("text => getComputedStyle(text).fill"),
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_makes_no_requests_and_logs_no_errors(
    chromium: "Browser", address: str, scheme: str
) -> None:
    visited = open_page(chromium, address, color_scheme=scheme)
    assert visited.requests == [address]
    assert visited.complaints == []
    charts = visited.page.locator(".chart")
    assert charts.count() == 11
    assert visited.page.locator(".chart .main-svg").count() >= charts.count()
    assert "cannot be drawn" not in visited.page.content().partition("<script")[0]
    visited.screenshot(f"report-{scheme}")


def test_text_and_charts_follow_the_colour_scheme(chromium: "Browser", address: str) -> None:
    visited = open_page(chromium, address, color_scheme="light")
    light = rgb(figures.LIGHT["ink"]), rgb(figures.LIGHT["muted"])
    dark = rgb(figures.DARK["ink"]), rgb(figures.DARK["muted"])
    assert ink(visited) == light
    visited.page.emulate_media(color_scheme="dark")
    assert ink(visited) == dark
    visited.page.emulate_media(color_scheme="light")
    assert ink(visited) == light


def test_nothing_is_wider_than_a_phone_screen(chromium: "Browser", address: str) -> None:
    visited = open_page(
        chromium, address, width=360, height=740, is_mobile=True, has_touch=True, device_scale_factor=2
    )
    assert visited.page.evaluate("document.documentElement.scrollWidth") == 360
    # Wider elements scroll in their own box; nothing else overflows.
    overflowing = visited.page.evaluate(
        "[...document.querySelectorAll('main *, header *')]"
        ".filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > 361).length"
    )
    assert overflowing == 0
    size = visited.page.locator("p.lead").first.evaluate(
        "text => parseFloat(getComputedStyle(text).fontSize)"
    )
    assert size >= 16  # pixels: smaller text is hard to read at arm's length
    visited.screenshot("report-phone")


def test_the_printed_page_is_light_and_complete(chromium: "Browser", address: str) -> None:
    visited = open_page(chromium, address, color_scheme="dark")
    visited.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    visited.page.emulate_media(media="print")
    assert ink(visited)[1] == rgb(figures.LIGHT["muted"])
    widths = visited.page.locator(".chart .main-svg").evaluate_all("all => all.map(one => one.clientWidth)")
    assert max(widths) == 690
    visited.page.emulate_media(media="screen")
    visited.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert ink(visited)[1] == rgb(figures.DARK["muted"])
    pdf = visited.page.pdf(format="A4")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 4 <= pages <= 14
    (SCREENSHOTS / "report.pdf").write_bytes(pdf)


def test_hostile_class_names_are_harmless(chromium: "Browser", data: ReportData, tmp_path: Path) -> None:
    hostile = '</script><script>window.hit = 1</script><img src="x" onerror="window.hit = 2">'
    renamed = replace(data, classes=tuple(f"{hostile}{name}" for name in data.classes))
    (tmp_path / "hostile.html").write_text(report.render(renamed))
    visited = open_page(chromium, (tmp_path / "hostile.html").as_uri())
    assert visited.page.evaluate("window.hit === undefined")
    assert len(visited.requests) == 1
    assert visited.complaints == []


def test_a_thousand_trials_load_quickly(chromium: "Browser", tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report.render(report.load_data(record_sweep(tmp_path / "runs", 1000))))
    assert page.stat().st_size < 3_000_000
    visited = open_page(chromium, page.as_uri())
    assert visited.complaints == []
    # It takes two seconds on an idle machine; thirty leave room for a busy one.
    assert float(visited.page.evaluate("document.documentElement.dataset.drawn")) < 30_000
    visited.screenshot("report-1000-trials")
