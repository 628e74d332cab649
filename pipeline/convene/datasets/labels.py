"""Class names and numbers from whatever labels a source has."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene.errors import InputError

_KINDS = {"b": "integers", "i": "integers", "u": "integers", "U": "texts"}


def as_labels(values: NDArray[Any], where: str) -> NDArray[Any]:
    """One label an example, [example], integers or texts; `where` names them in messages.

    Accepts [example, 1] and whole floats. Raises InputError for all else.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(f"{where}: shape {values.shape}; labels are one whole number or text for each image")
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{where}: labels that are no UTF-8 text") from None
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int64)
        if not np.array_equal(whole, values):
            wrong = values[values != whole][0]
            raise InputError(f"{where}: label {wrong}; labels are whole numbers or texts")
        values = whole
    if values.dtype.kind not in _KINDS:
        raise InputError(f"{where}: values of type {values.dtype}; labels are whole numbers or texts")
    return values


def encode(
    labels: Mapping[str, NDArray[Any]], *, where: str, names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Class names, and the labels of each split as numbers of them.

    Without `names` the classes are the distinct labels of `train`, sorted; with `names` the labels are
    their numbers from 0. `labels` are as `as_labels` returns them.

    Raises:
        InputError: for a label in another split that `train` lacks, or a number that has no name.
    """
    train = labels["train"]
    for split, values in labels.items():
        if _KINDS[values.dtype.kind] != _KINDS[train.dtype.kind]:
            raise InputError(
                f"{where}: labels are {_KINDS[train.dtype.kind]} in train, "
                f"but {_KINDS[values.dtype.kind]} in {split}"
            )
    if names is not None and _KINDS[train.dtype.kind] == "integers":
        for split, values in labels.items():
            wrong = values[(values < 0) | (values >= len(names))]
            if len(wrong):
                raise InputError(
                    f"{where}: label {wrong[0]} in {split}; there are {len(names)} classes, "
                    f"0 to {len(names) - 1}"
                )
        return tuple(names), {split: values.astype(np.int64) for split, values in labels.items()}
    known = np.unique(train)
    for split, values in labels.items():
        strange = np.setdiff1d(values, known)
        if len(strange):
            raise InputError(
                f"{where}: label {strange[0]} in {split} is not in train, which has {_listed(known)}"
            )
    classes = tuple(str(label) for label in known)
    return classes, {split: np.searchsorted(known, values) for split, values in labels.items()}


def _listed(known: NDArray[Any], most: int = 12) -> str:
    shown = ", ".join(str(label) for label in known[:most])
    return shown if len(known) <= most else f"{shown} and {len(known) - most} more"
