"""Class names and class numbers from the labels of a source."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene.errors import InputError

_KINDS = {"b": "integers", "i": "integers", "u": "integers", "U": "strings"}


def as_labels(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Return labels [example] as integers or strings.

    Args:
        values: integers, whole floats, strings or UTF-8 bytes, as [example] or [example, 1].
        where: name of the labels in error messages.

    Raises:
        InputError: for other values and shapes.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(f"{where}: shape {values.shape}; labels must be one integer or string per image")
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{where}: labels are not valid UTF-8") from None
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int64)
        if not np.array_equal(whole, values):
            wrong = values[values != whole][0]
            raise InputError(f"{where}: label {wrong}; labels must be integers or strings")
        values = whole
    if values.dtype.kind not in _KINDS:
        raise InputError(f"{where}: values of type {values.dtype}; labels must be integers or strings")
    return values


def encode(
    labels: Mapping[str, NDArray[Any]], *, where: str, names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Return the class names, and the labels of each split as class numbers.

    Args:
        labels: labels of each split, as returned by `as_labels`.
        where: name of the labels in error messages.
        names: class names, if integer labels are class numbers from 0. Otherwise the classes are the sorted
            distinct labels of `train`.

    Raises:
        InputError: if `train` lacks a label of another split, or a number has no name.
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
                    f"0 to {len(names) - 1}{_unlabelled_hint(wrong[0], split)}"
                )
        return tuple(names), {split: values.astype(np.int64) for split, values in labels.items()}
    known = np.unique(train)
    if known.dtype.kind == "U":
        labels = _compose(labels, known, where)
    for split, values in labels.items():
        unknown = np.setdiff1d(values, known)
        if len(unknown):
            raise InputError(
                f"{where}: label {unknown[0]} in {split} is not in train, which has {_join_labels(known)}"
                f"{_unlabelled_hint(unknown[0], split)}"
            )
    classes = tuple(str(label) for label in known)
    return classes, {split: np.searchsorted(known, values) for split, values in labels.items()}


def _compose(labels: Mapping[str, NDArray[Any]], known: NDArray[Any], where: str) -> dict[str, NDArray[Any]]:
    """Return the labels of the splits as `train` writes them, with composed or with decomposed accents."""
    forms: dict[str, str] = {}
    for label in known.tolist():
        form = unicodedata.normalize("NFC", label)
        if form in forms:
            raise InputError(
                f"{where}: label {form!r} is written with composed and with decomposed accents in train; "
                "write it in one form"
            )
        forms[form] = label
    return {split: _rename(values, known, forms) for split, values in labels.items()}


def _rename(values: NDArray[Any], known: NDArray[Any], forms: Mapping[str, str]) -> NDArray[Any]:
    """Return the values with each unknown one replaced by the known one of the same composed form."""
    if np.isin(values, known).all():
        return values
    return np.array([forms.get(unicodedata.normalize("NFC", value), value) for value in values.tolist()])


def _unlabelled_hint(label: object, split: str) -> str:
    """Return a hint at Hugging Face's mark for images without labels, or nothing."""
    if label != -1:
        return ""
    remedy = "remove them" if split == "train" else f"remove the {split} split, and one is held out of train"
    return f". -1 often marks images without labels; {remedy}"


def _join_labels(labels: NDArray[Any], limit: int = 12) -> str:
    shown = ", ".join(str(label) for label in labels[:limit])
    return shown if len(labels) <= limit else f"{shown} and {len(labels) - limit} more"
