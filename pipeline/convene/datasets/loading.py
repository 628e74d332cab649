"""From `data` of a configuration to a data set: read, divided, limited, measured."""

import logging
import re
from pathlib import Path

import numpy as np

from convene.config.schema import DataConfig
from convene.config.validation import suggestion
from convene.datasets import digits, download, idx, image_folder, npz, parquet
from convene.datasets.dataset import Collection, Dataset, Images, SealedTest, fingerprint
from convene.datasets.download import ARCHIVES, cache_folder, fetch
from convene.datasets.normalization import fit
from convene.datasets.pixels import conform
from convene.datasets.splitting import draw, hold_out
from convene.errors import InputError

logger = logging.getLogger(__name__)

# Each draw has a stream of its own, so that none depends on whether another was needed.
_STREAMS = {"test": 1, "valid": 2, "limit": 3}


def load(config: DataConfig, *, cache: Path | None = None) -> Dataset:
    """The data set that `config` describes: the same for the same configuration and files.

    `cache` is the folder for downloads, instead of $CONVENE_CACHE or ~/.cache/convene.

    Raises:
        InputError: for a source that does not exist, cannot be read or is no classification data set.
        WorkError: if a public data set cannot be downloaded.
    """
    path = _path(config.source, cache)
    try:
        collection = conform(_read(config, path, cache), config)
    except OSError as error:
        raise InputError(
            f"data.source = {config.source!r}: {error.filename or path} cannot be read: "
            f"{error.strerror or error}"
        ) from None
    train, valid, test = _divided(collection, config)
    # What was read is no longer needed, and may be as large as what was made of it.
    classes = collection.classes
    del collection
    for split, images in (("train", train), ("valid", valid), ("test", test)):
        logger.info("%s: %d images for %s", config.source, len(images), split)
    sealed = SealedTest(test)
    return Dataset(
        name=config.source if path is None else _short_name(path),
        source=config.source if path is None or download.is_address(config.source) else str(path),
        classes=classes,
        train=train,
        valid=valid,
        test=sealed,
        statistics=fit(train.pixels, config.normalization),
        fingerprint=fingerprint(classes, train, valid, sealed),
    )


def _path(source: str, cache: Path | None) -> Path | None:
    """Where the files are that a source names; None for a known data set."""
    if source == "digits" or source in ARCHIVES:
        return None
    return download.fetch_from_store(source, cache) if download.is_address(source) else _existing_path(source)


def _existing_path(source: str) -> Path:
    try:
        path = Path(source).expanduser()
        if source and path.exists():
            return path.resolve()
    except (OSError, RuntimeError, ValueError):
        pass  # Too long, no such user, a zero byte: no path that exists.
    known = ["digits", *ARCHIVES]
    raise InputError(
        f"data.source = {source!r}: neither a known data set nor an existing path{suggestion(source, known)}"
    )


def _read(config: DataConfig, path: Path | None, cache: Path | None) -> Collection:
    if path is None:
        if config.source == "digits":
            return digits.read()
        archive, folder = ARCHIVES[config.source], cache_folder(config.source, cache)
        fetch(archive, folder)
        return idx.read(folder, classes=archive.classes)
    if path.is_dir():
        if idx.found_in(path):
            return idx.read(path)
        if parquet.found_in(path):
            return parquet.read(path, config)
        return image_folder.read(path, config)
    if path.suffix == ".npz":
        return npz.read(path)
    if path.suffix == ".parquet":
        return parquet.read(path, config)
    raise InputError(f"data.source = {config.source!r}: not a folder, a .parquet or a .npz")


def _short_name(path: Path) -> str:
    name = path.stem if path.is_file() else path.name
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "data"


def _divided(collection: Collection, config: DataConfig) -> tuple[Images, Images, Images]:
    """Train, valid and test: those that the source has, the others held out of train, first the test."""
    splits = dict(collection.splits)
    train = splits["train"]
    missing = [split for split in ("test", "valid") if split not in splits]
    _check_classes(collection, config, missing)
    remaining = np.arange(len(train))
    for number, split in enumerate(missing):
        fraction = config.test_fraction if split == "test" else config.valid_fraction
        kept, held = hold_out(
            train.labels[remaining], fraction, leave=len(missing) - number, seed=_seed(config, split)
        )
        splits[split] = train.take(remaining[held])
        remaining = remaining[kept]
    if config.train_limit is not None:
        if config.train_limit < len(collection.classes):
            raise InputError(
                f"data.train_limit = {config.train_limit}: must be at least the number of classes, "
                f"{len(collection.classes)}"
            )
        remaining = remaining[draw(train.labels[remaining], config.train_limit, seed=_seed(config, "limit"))]
    if len(remaining) < len(train):
        train = train.take(remaining)
    return train, splits["valid"], splits["test"]


def _check_classes(collection: Collection, config: DataConfig, missing: list[str]) -> None:
    classes = collection.classes
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:  # a folder's, as the system gives bytes that are no text
            raise InputError(
                f"data.source = {config.source!r}: class {name!r}: the name must be UTF-8"
            ) from None
    if len(classes) < 2:
        raise InputError(f"data.source = {config.source!r}: only one class, {classes[0]!r}; two are needed")
    needed = 1 + len(missing)
    counts = {
        split: np.bincount(images.labels, minlength=len(classes))
        for split, images in collection.splits.items()
    }
    for name, count in zip(classes, counts["train"], strict=True):
        if count < needed:
            raise InputError(
                f"data.source = {config.source!r}: class {name!r} has too few images to train with, {count}; "
                f"it needs {needed} or more, one for each of {', '.join(['train', *sorted(missing)])}"
            )
    for split in ("valid", "test"):
        absent = [name for name, count in zip(classes, counts.get(split, ()), strict=False) if not count]
        if absent:
            logger.warning("%s: no images of %s in %s", config.source, ", ".join(absent), split)


def _seed(config: DataConfig, purpose: str) -> tuple[int, ...]:
    # Seeds of NumPy are not negative.
    return config.split_seed % 2**64, _STREAMS[purpose]
