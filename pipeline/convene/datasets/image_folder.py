"""A folder of image files, with a folder for each class."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from convene.config.schema import DataConfig
from convene.datasets.dataset import Collection, Images
from convene.datasets.decoding import SUFFIXES, Encoded, decode_splits
from convene.errors import InputError

logger = logging.getLogger(__name__)

_SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}


def image_files(folder: Path) -> Iterator[Path]:
    """Image files anywhere below, sorted, one folder at a time. Hidden files and folders do not count."""
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if _counts(entry.name)), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir():
            yield from image_files(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - once for each of a million
            yield Path(entry.path)


def read(folder: Path, config: DataConfig) -> Collection:
    """Images by class: `cat/…png` and so on, directly in the folder or in `train/`, `valid/` and `test/`.

    It is divided if `train/` is there and has folders itself; then other folders beside it do not count.
    Classes are the sorted names of their folders, the same in each split.

    Raises:
        InputError: if there are no class folders, no images, splits with other classes, or an unreadable
            image.
    """
    divided = _split_folders(folder)
    split_folders = divided or {"train": folder}
    classes = tuple(_subfolders(split_folders["train"]))
    if not classes:
        raise InputError(
            f"{folder}: holds neither IDX files (train-images-idx3-ubyte and so on), nor .parquet files, "
            f"nor a folder of images for each class{_loose(folder)}"
        )
    images: dict[str, list[Encoded]] = {}
    labels: dict[str, list[int]] = {}
    for split, split_folder in split_folders.items():
        _check_classes(split_folder, split_folders["train"], classes)
        images[split], labels[split] = [], []
        for number, name in enumerate(classes):
            files = [Encoded(str(path), path) for path in image_files(split_folder / name)]
            images[split] += files
            labels[split] += [number] * len(files)
        if not images[split]:
            raise InputError(
                f"{split_folder}: no images in its folders {', '.join(classes)}; "
                f"images are {', '.join(sorted(SUFFIXES))}"
            )
    pixels = decode_splits(images, config)
    return Collection(
        classes, {split: Images(pixels[split], np.array(labels[split], dtype=np.int64)) for split in images}
    )


def _split_folders(folder: Path) -> dict[str, Path] | None:
    """The folder of each split, or nothing if the folder is not divided."""
    found: dict[str, Path] = {}
    others = []
    for name in _subfolders(folder):
        split = _SPLIT_NAMES.get(name.lower())
        if split is None:
            others.append(name)
        elif split in found:
            raise InputError(f"{folder}: {found[split].name} and {name} are both the {split} split; keep one")
        else:
            found[split] = folder / name
    if "train" not in found or not _subfolders(found["train"]):
        return None
    if others:
        logger.warning("%s: %s beside train do not count", folder, ", ".join(others))
    return found


def _check_classes(folder: Path, train: Path, classes: tuple[str, ...]) -> None:
    there = _subfolders(folder)
    for name in there:
        if name not in classes:
            raise InputError(f"{folder}: class {name!r} is not in {train}, which has {', '.join(classes)}")
    for name in classes:
        if name not in there:
            raise InputError(f"{folder}: class {name!r} of {train} is missing; an empty folder is enough")


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _counts(path.name))


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _loose(folder: Path) -> str:
    loose = next(image_files(folder), None)
    return f"; {loose.name} should be in a folder named after its class" if loose else ""
