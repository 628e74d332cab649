"""Parquet files of a folder by split, in Hugging Face's layouts."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from convene.datasets.decoding import SUFFIXES
from convene.datasets.file_tree import LeftOut, image_files, printable, subfolders
from convene.datasets.split_names import SplitName, parse_split
from convene.errors import InputError
from convene.formatting import join_words

logger = logging.getLogger(__name__)


def find_files(folder: Path) -> list[Path]:
    """Return the sorted Parquet files in the folder, else in its `data/`, else in folders of configurations.

    Hugging Face has `CONFIGURATION/train-00000-of-00001.parquet`; its converter writes
    `CONFIGURATION/train/0000.parquet`. Folders that also have images are of another layout.
    """
    if files := _parquet_files(folder):
        return files
    names = subfolders(folder)
    for name in ("data", *(name for name in names if name != "data")):
        if name not in names:
            continue
        if name != "data" and _has_images(folder / name):
            continue
        files += _files_below(folder / name)
        if files and name == "data":
            return files
    return files


def group_by_split(folder: Path) -> dict[str, list[Path]]:
    """Return the Parquet files of each split.

    A file belongs to the split in its name, else in that of its folder. If there are no such names, all files
    are `train`.

    Raises:
        InputError: if there are several configurations, no training files, or two names of the same split.
    """
    files = find_files(folder)
    _check_layout(folder, files)
    _check_configurations(folder, files)
    splits: dict[str, list[Path]] = {}
    words: dict[str, str] = {}
    for path in files:
        name = _split_name(path, folder)
        split = name.split if name else ""
        splits.setdefault(split, []).append(path)
        if name and words.setdefault(split, name.word) != name.word:
            raise InputError(
                f"{printable(folder)}: {words[split]} and {name.word} are both the {split} split; keep one"
            )
    others = splits.pop("", [])
    if not splits:
        _check_names(folder, files)
        return {"train": files}
    if "train" not in splits:
        raise InputError(
            f"{printable(folder)}: no Parquet file name starts with train; found {_names(files, folder)}"
        )
    if others:
        logger.warning("%s: ignoring %s beside train", printable(folder), _names(others, folder))
    return splits


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".parquet" and not path.name.startswith(".") and path.is_file()
    )


def _files_below(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder and in its folders of splits."""
    files = _parquet_files(folder)
    for name in subfolders(folder):
        if parse_split(name):
            files += _parquet_files(folder / name)
    return files


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(os.path.splitext(entry.name)[1].lower() in SUFFIXES for entry in entries)  # noqa: PTH122


def _split_name(path: Path, folder: Path) -> SplitName | None:
    """Return the split that the file's name states, else the nearest of its folders below `folder`."""
    parents = path.relative_to(folder).parts[-2::-1]
    return next((name for part in (path.stem, *parents) if (name := parse_split(part))), None)


def _check_layout(folder: Path, files: Sequence[Path]) -> None:
    """Reject Parquet files in folders beside folders of images, because either may be meant."""
    tops = {path.relative_to(folder).parts[0] for path in files if path.parent != folder}
    for name in subfolders(folder) if tops - {"data"} else []:
        if image := next(image_files(folder / name, LeftOut()), None):
            raise InputError(
                f"{printable(folder)}: has Parquet files in {_names(files[:1], folder)} and images in "
                f"{printable(image.relative_to(folder))}; set data.source to the folder of one kind"
            )


def _check_configurations(folder: Path, files: Sequence[Path]) -> None:
    configurations = sorted({_configuration(path, folder) for path in files})
    if len(configurations) > 1:
        first = printable(folder / configurations[0])
        raise InputError(
            f"{printable(folder)}: has several configurations, {join_words(configurations)}; set data.source "
            f"to the folder of one, such as {first!r}"
        )


def _configuration(path: Path, folder: Path) -> str:
    """Return the folder of the file's configuration, which is that of its split folder if it has one."""
    parts = path.relative_to(folder).parts[:-1]
    return "/".join(parts[:-1] if parts and parse_split(parts[-1]) else parts)


def _check_names(folder: Path, files: Sequence[Path]) -> None:
    """Reject names that seem to be of splits but are not understood, such as `xtrain` and `xtest`."""
    names = [path.stem.lower() for path in files]
    if any("train" in name for name in names) and any("test" in name or "val" in name for name in names):
        raise InputError(
            f"{printable(folder)}: the splits of {_names(files, folder)} are not clear; names must start "
            "with train, valid or test"
        )


def _names(files: Sequence[Path], folder: Path, limit: int = 12) -> str:
    names = [printable(path.relative_to(folder)) for path in files[:limit]]
    return join_words([*names, *([f"{len(files) - limit} others"] if len(files) > limit else [])])
