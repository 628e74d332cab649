"""Images that are more than memory holds are refused before they are decoded."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convene import datasets
from convene.config.schema import DataConfig
from convene.datasets import decoding, memory
from convene.errors import InputError

SIZE = 3 * 8 * 8  # bytes of an image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images in colour, of two classes."""
    for number in range(10):
        place = tmp_path / "images" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 255)).save(place / f"{number}.png")
    return tmp_path / "images"


def has(monkeypatch: pytest.MonkeyPatch, left: int | None) -> None:
    monkeypatch.setattr(memory, "available", lambda: left)


@pytest.mark.parametrize("left", [10 * SIZE, None])
def test_what_fits_or_nobody_knows_of_is_read(
    folder: Path, left: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, left)
    assert len(datasets.load(DataConfig(source=str(folder))).train) > 0


def test_a_folder_that_does_not_fit_is_refused_before_an_image_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 10 * SIZE - 1)
    monkeypatch.setattr(decoding, "decode", lambda *arguments, **options: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"images': 10 images of 8x8 pixels and 3 channels take 1.92e-06 GB"):
        datasets.load(DataConfig(source=str(folder)))
    # A smaller size fits, and is as far as the decoder is come to.
    with pytest.raises(BaseException, match="decoded"):
        datasets.load(DataConfig(source=str(folder), image_size=7))


@pytest.mark.parametrize("encoded", [False, True])
def test_parquet_that_does_not_fit_is_refused(
    folder: Path, encoded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of lists of pixels no more is read than the first rows; the files say how many there are."""
    for part in range(2):
        if encoded:
            images: list[object] = [path.read_bytes() for path in sorted(folder.rglob("*.png"))] * 30
        else:
            images = np.zeros((300, SIZE), np.uint8).tolist()
        labels = [number % 2 for number in range(300)]
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{part}.parquet")
    has(monkeypatch, 600 * SIZE - 1)
    with pytest.raises(InputError, match="600 images of 8x8 pixels and 3 channels take"):
        datasets.load(DataConfig(source=str(tmp_path)))
    has(monkeypatch, 600 * SIZE)
    assert len(datasets.load(DataConfig(source=str(tmp_path))).test) == 120


@pytest.mark.parametrize(
    ("machine", "container", "left"),
    [
        ("MemTotal: 16 kB\nMemAvailable:   8 kB\nBuffers: 1 kB\n", {}, 8192),
        ("MemAvailable: 8 kB", {"memory.max": "max", "memory.current": "1"}, 8192),
        ("MemAvailable: 8 kB", {"memory.max": "5000", "memory.current": "3000"}, 2000),
        (
            "MemAvailable: 8 kB",
            {"memory.max": "5000", "memory.current": "3000", "memory.stat": "anon 9\ninactive_file 500\n"},
            2500,
        ),
        ("MemAvailable: 1 kB", {"memory.max": "5000", "memory.current": "3000"}, 1024),
        ("", {"memory.max": "5000", "memory.current": "6000"}, 0),
        ("", {}, None),
    ],
)
def test_what_is_left_of_a_machine_and_of_a_container(
    machine: str, container: dict[str, str], left: int | None, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text(machine)
    for name, content in container.items():
        (tmp_path / name).write_text(content + "\n")
    assert memory.available(tmp_path / "meminfo", tmp_path) == left


def test_this_machine_tells() -> None:
    left = memory.available()
    assert left is None or 0 < left < 1 << 50
