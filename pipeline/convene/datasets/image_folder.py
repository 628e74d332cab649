"""Folders of image files with a subfolder for each class."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from convene.config.schema import DataConfig
from convene.datasets.dataset import Images, SourceData
from convene.datasets.decoding import SUFFIXES, EncodedImage, decode_splits
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
    """Yield the image files in a folder and its subfolders, sorted. Hidden files and folders are skipped."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if _is_visible(entry.name)]
    for entry in sorted(visible, key=lambda entry: entry.name):
        if entry.is_dir():
            yield from image_files(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - fast, for a million files
            yield Path(entry.path)


def read(folder: Path, config: DataConfig) -> SourceData:
    """Return images by class, such as `cat/1.png`, in the folder itself or in `train/`, `valid/` and `test/`.

    The folder has splits if it has `train/` with subfolders; other folders beside it are then ignored.
    Classes are the sorted names of the class folders, which must be the same in each split.

    Raises:
        InputError: if there are no class folders or no images, the classes of splits differ, or an image is
            unreadable.
    """
    split_folders = _split_folders(folder) or {"train": folder}
    classes = tuple(_subfolders(split_folders["train"]))
    if not classes:
        raise InputError(
            f"{folder}: has neither IDX files (train-images-idx3-ubyte and so on), nor .parquet files, "
            f"nor a folder of images for each class{_misplaced_image_hint(folder)}"
        )
    images: dict[str, list[EncodedImage]] = {}
    labels: dict[str, list[int]] = {}
    for split, split_folder in split_folders.items():
        _check_classes(split_folder, split_folders["train"], classes)
        images[split], labels[split] = [], []
        for number, name in enumerate(classes):
            files = [EncodedImage(str(path), path) for path in image_files(split_folder / name)]
            images[split] += files
            labels[split] += [number] * len(files)
        if not images[split]:
            raise InputError(
                f"{split_folder}: no images in its folders {', '.join(classes)}; "
                f"image files end with {', '.join(sorted(SUFFIXES))}"
            )
    pixels = decode_splits(images, config)
    return SourceData(
        classes, {split: Images(pixels[split], np.array(labels[split], dtype=np.int64)) for split in images}
    )


def _split_folders(folder: Path) -> dict[str, Path] | None:
    """Return the folder of each split, or None if the folder has no splits."""
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
        logger.warning("%s: ignoring %s beside train", folder, ", ".join(others))
    return found


def _check_classes(folder: Path, train: Path, classes: tuple[str, ...]) -> None:
    found = _subfolders(folder)
    for name in found:
        if name not in classes:
            raise InputError(f"{folder}: class {name!r} is not in {train}, which has {', '.join(classes)}")
    for name in classes:
        if name not in found:
            raise InputError(f"{folder}: class {name!r} of {train} is missing; an empty folder suffices")


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _is_visible(path.name))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _misplaced_image_hint(folder: Path) -> str:
    image = next(image_files(folder), None)
    return f"; {image.name} should be in a folder named after its class" if image else ""
