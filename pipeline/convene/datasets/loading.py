"""Loading of the data set that a configuration describes."""

import logging
import re
from pathlib import Path

import numpy as np

from convene.config.schema import DataConfig
from convene.datasets.dataset import Dataset, Images, SealedTest, SourceData, fingerprint
from convene.datasets.download import is_object_uri
from convene.datasets.normalization import fit_statistics
from convene.datasets.pixels import unify_shapes
from convene.datasets.sources import local_path, read_source
from convene.datasets.splitting import hold_out, stratified_sample
from convene.errors import InputError

logger = logging.getLogger(__name__)

# Each draw has its own random stream, so that it does not depend on which other draws are needed.
_STREAMS = {"test": 1, "valid": 2, "limit": 3}


def load(config: DataConfig, *, cache: Path | None = None) -> Dataset:
    """Return the data set of a configuration. The same configuration and files give the same data set.

    Args:
        config: the source, and how it is split.
        cache: the folder for downloads, instead of $CONVENE_CACHE or ~/.cache/convene.

    Raises:
        InputError: if the source does not exist, cannot be read, or is not a classification data set.
        WorkError: if a public data set cannot be downloaded.
    """
    path = local_path(config.source, cache)
    try:
        data = unify_shapes(read_source(config, path, cache), config)
    except OSError as error:
        raise InputError(
            f"data.source = {config.source!r}: {error.filename or path} cannot be read: "
            f"{error.strerror or error}"
        ) from None
    train, valid, test = _split(data, config)
    # Free the source's images, which can be as large as the splits.
    classes = data.classes
    del data
    for split, images in (("train", train), ("valid", valid), ("test", test)):
        logger.info("%s: %d images for %s", config.source, len(images), split)
    sealed = SealedTest(test)
    return Dataset(
        name=config.source if path is None else _short_name(path),
        source=config.source if path is None or is_object_uri(config.source) else str(path),
        classes=classes,
        train=train,
        valid=valid,
        test=sealed,
        statistics=fit_statistics(train.pixels, config.normalization),
        fingerprint=fingerprint(classes, train, valid, sealed),
    )


def _short_name(path: Path) -> str:
    name = path.stem if path.is_file() else path.name
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "data"


def _split(data: SourceData, config: DataConfig) -> tuple[Images, Images, Images]:
    """Return train, valid and test. Missing splits are held out of train, the test split first."""
    splits = dict(data.splits)
    train = splits["train"]
    missing = [split for split in ("test", "valid") if split not in splits]
    _check_classes(data, config, missing)
    remaining = np.arange(len(train))
    for number, split in enumerate(missing):
        fraction = config.test_fraction if split == "test" else config.valid_fraction
        rest, held = hold_out(
            train.labels[remaining], fraction, minimum_left=len(missing) - number, seed=_seed(config, split)
        )
        splits[split] = train.take(remaining[held])
        remaining = remaining[rest]
    if config.train_limit is not None:
        if config.train_limit < len(data.classes):
            raise InputError(
                f"data.train_limit = {config.train_limit}: must be at least the number of classes, "
                f"{len(data.classes)}"
            )
        labels, seed = train.labels[remaining], _seed(config, "limit")
        remaining = remaining[stratified_sample(labels, config.train_limit, seed=seed)]
    if len(remaining) < len(train):
        train = train.take(remaining)
    return train, splits["valid"], splits["test"]


def _check_classes(data: SourceData, config: DataConfig, missing: list[str]) -> None:
    classes = data.classes
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:  # a folder name with bytes that are not text
            raise InputError(
                f"data.source = {config.source!r}: class {name!r}: the name must be UTF-8"
            ) from None
    if len(classes) < 2:
        raise InputError(
            f"data.source = {config.source!r}: only one class, {classes[0]!r}; at least two are needed"
        )
    needed = 1 + len(missing)
    counts = {
        split: np.bincount(images.labels, minlength=len(classes)) for split, images in data.splits.items()
    }
    for name, count in zip(classes, counts["train"], strict=True):
        if count < needed:
            raise InputError(
                f"data.source = {config.source!r}: class {name!r} has too few images, {count}; "
                f"it needs {needed} or more, one for each of {', '.join(['train', *sorted(missing)])}"
            )
    for split in ("valid", "test"):
        absent = [name for name, count in zip(classes, counts.get(split, ()), strict=False) if not count]
        if absent:
            logger.warning("%s: no images of %s in %s", config.source, ", ".join(absent), split)


def _seed(config: DataConfig, purpose: str) -> tuple[int, ...]:
    # NumPy's seeds cannot be negative.
    return config.split_seed % 2**64, _STREAMS[purpose]
