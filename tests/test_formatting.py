"""Readable text for numbers, durations, sizes and lists, and safe Markdown."""

import pytest

from convene.formatting import byte_size, code, duration, escape, percent, ranges, significant


@pytest.mark.parametrize(
    ("share", "count", "text"),
    [
        (1 - 1e-12, 1, ">99.9999 %"),
        (0.9972, 360, "99.7 %"),
        (0.99571, 10_000, "99.57 %"),
        (1.0, 360, "100 %"),
        (0.9999, 360, "99.99 %"),  # less than all is never rounded to 100 %
        (0.99996, 10_000, "99.996 %"),
        (0.0, 360, "0.0 %"),
        (1e-9, 360, "<0.1 %"),
        (1e-9, 10_000, "<0.01 %"),
        (0.0015, 360, "0.1 %"),
    ],
)
def test_percent(share: float, count: int, text: str) -> None:
    assert percent(share, count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012, "0.0120"), (1.5, "1.50"), (128.0, "128"), (1e-5, "1.00e-05"), (4_000_000.0, "4.00e+06")],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(51.6, "52 s"), (750, "12 min 30 s"), (7500, "2 h 5 min"), (3600, "1 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (34_400_000, "34.4 MB"),
        (12e10, "120 GB"),
        (3e15, "3e+03 TB"),
    ],
)
def test_byte_size(size: float, words: str) -> None:
    assert byte_size(size) == words


def test_consecutive_numbers_become_ranges() -> None:
    assert [ranges(n) for n in ([], [4], [0, 1, 2, 5, 7, 8])] == ["", "4", "0 to 2, 5, 7 to 8"]


@pytest.mark.parametrize(
    ("value", "inline", "escaped"),
    [
        ("a|b", "`a|b`", "a\\|b"),
        ("`rm`\n<script>", "`'rm' <script>`", "\\`rm\\` \\<script\\>"),
        ("[x](y) *z* #1 _", "`[x](y) *z* #1 _`", "\\[x\\](y) \\*z\\* \\#1 \\_"),
    ],
)
def test_markdown_characters_are_neutralized(value: str, inline: str, escaped: str) -> None:
    assert code(value) == inline
    assert escape(value) == escaped
