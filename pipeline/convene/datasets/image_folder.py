"""Folders of image files with a subfolder for each class."""

import logging
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from convene.config.schema import DataConfig
from convene.datasets.dataset import Images, SourceData
from convene.datasets.decoding import SUFFIXES, EncodedImage, decode_splits
from convene.datasets.file_tree import LeftOut, image_files, printable, subfolders
from convene.datasets.split_names import are_splits, exact_split
from convene.errors import InputError
from convene.formatting import join_words

logger = logging.getLogger(__name__)

_LAYOUTS = (
    "images must be in one folder for each class, such as cat/1.png, or in train/cat/1.png and, if there are "
    "such splits, valid/cat/2.png and test/cat/3.png"
)
ENDINGS = f"image files end with {', '.join(sorted(SUFFIXES))}"
"""End of messages about folders without images."""


def read(folder: Path, config: DataConfig) -> SourceData:
    """Return images by class, such as `cat/1.png`, in the folder itself or in `train/`, `valid/` and `test/`.

    The folder has splits if it has `train/` with subfolders. Splits may have the other names in
    `split_names.SPLIT_NAMES`. Classes are the sorted names of the class folders, which must be the same in
    each split. What is left out is counted in a warning.

    Raises:
        InputError: if there are no class folders or no images, the folders look like splits but have no
            classes, the classes of splits differ, or an image is unreadable.
    """
    left_out = LeftOut()
    splits = _split_folders(folder, left_out) or {"train": folder}
    class_folders = _class_folders(folder, splits)
    classes = tuple(class_folders["train"])
    images: dict[str, list[EncodedImage]] = {}
    labels: dict[str, list[int]] = {}
    for split, folders in class_folders.items():
        images[split], labels[split] = [], []
        for number, name in enumerate(classes):
            files = [EncodedImage(printable(path), path) for path in image_files(folders[name], left_out)]
            images[split] += files
            labels[split] += [number] * len(files)
        if not images[split]:
            raise InputError(
                f"{printable(splits[split])}: no images in its folders {_join(classes)}"
                f"{f'; left out: {left_out}' if left_out else ''}; {ENDINGS}"
            )
        _count_loose_images(splits[split], left_out)
    if left_out:
        logger.warning("%s: left out %s; %s", printable(folder), left_out, ENDINGS)
    pixels = decode_splits(images, config)
    return SourceData(
        classes, {split: Images(pixels[split], np.array(labels[split], dtype=np.int64)) for split in images}
    )


def _split_folders(folder: Path, left_out: LeftOut) -> dict[str, Path] | None:
    """Return the folder of each split, or None if the folder has no splits.

    Images in other folders are counted in `left_out`.
    """
    found: dict[str, Path] = {}
    others = []
    for name in subfolders(folder):
        split = exact_split(name)
        if split is None:
            others.append(name)
        elif split in found:
            raise InputError(f"{folder}: {found[split].name} and {name} are both the {split} split; keep one")
        else:
            found[split] = folder / name
    if "train" not in found or not subfolders(found["train"]):
        return None
    with_images = {name: count for name in others if (count := _count_images(folder / name))}
    if with_images and len(found) == 1:
        raise InputError(
            f"{printable(folder)}: {found['train'].name} has folders as if it were a split, but images are "
            f"also in {_join(with_images)}. If it is a split, move the others away; if it is a class, rename "
            "it"
        )
    for name, count in with_images.items():
        left_out.add("image beside the splits", folder / name, many="images beside the splits", count=count)
    return found


def _class_folders(folder: Path, splits: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Return the class folders of each split by the names of the classes in `train`."""
    train = splits["train"]
    names = subfolders(train)
    if not names:
        raise InputError(
            f"{printable(folder)}: has neither IDX files (train-images-idx3-ubyte and so on), nor .parquet "
            f"files, nor a folder of images for each class{_misplaced_image_hint(folder)}"
        )
    _check_names(train, names)
    classes = _by_normal_form(train, names)
    folders = {}
    for split, split_folder in splits.items():
        found = _by_normal_form(split_folder, subfolders(split_folder))
        _check_classes(split_folder, found, train, classes)
        folders[split] = {classes[form]: split_folder / found[form] for form in found}
    return folders


def _check_names(folder: Path, names: list[str]) -> None:
    """Reject folders that are not classes: splits, parts, and the only folder around a data set."""
    inner = {name: subfolders(folder / name) for name in names}
    if are_splits(names) and any(_count_images(folder / name) for name in names):
        problem = f"its folders {_join(names)} look like splits or parts of the data, not classes"
    elif holders := [name for name, below in inner.items() if _has_splits(below)]:
        below = inner[holders[0]]
        problem = f"{_join(holders)}: has folders of splits, {_join(filter(exact_split, below))}"
        if len(names) == 1:
            problem += f" (data.source = {printable(folder / holders[0])!r} reads them)"
    elif len(names) == 1 and len(inner[names[0]]) > 1:
        raise InputError(
            f"{printable(folder)}: only one class, {names[0]!r}; if its folders {_join(inner[names[0]])} are "
            f"the classes, set data.source to {printable(folder / names[0])!r}"
        )
    else:
        return
    raise InputError(f"{printable(folder)}: {problem}; {_LAYOUTS}")


def _has_splits(names: Iterable[str]) -> bool:
    return len({exact_split(name) for name in names} - {None}) > 1


def _by_normal_form(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return names by their composed form (NFC): file systems and archives may decompose accents."""
    forms: dict[str, str] = {}
    for name in names:
        form = unicodedata.normalize("NFC", name)
        if form in forms:
            raise InputError(
                f"{printable(folder)}: two folders are called {form!r}, once with composed and once with "
                "decomposed accents; merge them"
            )
        forms[form] = name
    return forms


def _check_classes(folder: Path, found: Mapping[str, str], train: Path, classes: Mapping[str, str]) -> None:
    where = printable(folder)
    if not found and (count := _count_images(folder)):
        raise InputError(
            f"{where}: {count} images that are not in class folders, so that they have no labels; move them "
            f"into {_join(classes)}, or move the folder away"
        )
    for form, name in found.items():
        if form not in classes:
            raise InputError(f"{where}: class {name!r} is not in {train}, which has {', '.join(classes)}")
    for form, name in classes.items():
        if form not in found:
            raise InputError(f"{where}: class {name!r} of {train} is missing; an empty folder suffices")


def _count_images(folder: Path) -> int:
    return sum(1 for _ in image_files(folder, LeftOut()))


def _count_loose_images(folder: Path, left_out: LeftOut) -> None:
    """Count the images beside the class folders."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            left_out.add("image outside the class folders", path, many="images outside the class folders")


def _misplaced_image_hint(folder: Path) -> str:
    """Return a hint at images without a class folder, or at other files, or nothing."""
    left_out = LeftOut()
    image = next(image_files(folder, left_out), None)
    if image:
        return f"; {printable(image.name)} should be in a folder named after its class"
    return f"; left out: {left_out}" if left_out else ""


def _join(names: Iterable[str], limit: int = 12) -> str:
    names = [printable(name) for name in names]
    return join_words(names if len(names) <= limit else [*names[:limit], f"{len(names) - limit} others"])
