"""Images that do not fit into memory are rejected before they are decoded."""

from pathlib import Path
from typing import Any

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
    """Ten colour images of two classes."""
    for number in range(10):
        class_folder = tmp_path / "images" / "ab"[number % 2]
        class_folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 255)).save(class_folder / f"{number}.png")
    return tmp_path / "images"


def set_memory(monkeypatch: pytest.MonkeyPatch, available: int | None) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: available)


@pytest.mark.parametrize("available", [10 * SIZE, None])
def test_images_that_fit_or_may_fit_are_read(
    folder: Path, available: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, available)
    assert len(datasets.load(DataConfig(source=str(folder))).train) > 0


def test_a_folder_that_does_not_fit_is_rejected_before_decoding(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 10 * SIZE - 1)
    monkeypatch.setattr(decoding, "decode", lambda *arguments, **options: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"images': 10 images of 8x8 pixels and 3 channels need 1.92e-06 GB"):
        datasets.load(DataConfig(source=str(folder)))
    # A smaller size fits, so that decoding starts.
    with pytest.raises(BaseException, match="decoded"):
        datasets.load(DataConfig(source=str(folder), image_size=7))


@pytest.mark.parametrize("encoded", [False, True])
def test_parquet_that_does_not_fit_is_rejected(
    folder: Path, encoded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first rows of pixel lists are read; the files' metadata has the number of rows."""
    for part in range(2):
        if encoded:
            images: list[Any] = [path.read_bytes() for path in sorted(folder.rglob("*.png"))] * 30
        else:
            images = np.zeros((300, SIZE), np.uint8).tolist()
        labels = [number % 2 for number in range(300)]
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{part}.parquet")
    set_memory(monkeypatch, 600 * SIZE - 1)
    with pytest.raises(InputError, match="600 images of 8x8 pixels and 3 channels need"):
        datasets.load(DataConfig(source=str(tmp_path)))
    set_memory(monkeypatch, 600 * SIZE)
    assert len(datasets.load(DataConfig(source=str(tmp_path))).test) == 120


@pytest.mark.parametrize(
    ("machine", "container", "available"),
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
def test_available_memory_of_a_machine_and_a_container(
    machine: str, container: dict[str, str], available: int | None, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text(machine)
    for name, content in container.items():
        (tmp_path / name).write_text(content + "\n")
    assert memory.available_memory(tmp_path / "meminfo", tmp_path) == available


def test_available_memory_of_this_machine() -> None:
    available = memory.available_memory()
    assert available is None or 0 < available < 1 << 50
