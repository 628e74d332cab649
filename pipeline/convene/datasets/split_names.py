"""Usual names of splits, and what they say about a list of folder or file names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Splits by their usual names, in lower case. They are the same as in Hugging Face's `datasets`."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")
# Words that do not say what is in a folder: `train_images` and `trainset` are splits, `train_station` is not.
_FILLERS = frozenset(
    {"set", "sets", "data", "dataset", "images", "image", "img", "imgs", "files", "split", "of"}
)
_COMPOUND = re.compile(r"(train|training|valid|validation|val|dev|test|testing|eval)(set|data|images)")
_PART = re.compile(r"(fold|part|split|shard|batch|chunk|subset|set)s?[\W_]*\d+", re.IGNORECASE)


@dataclass(frozen=True)
class SplitName:
    """A name with the usual name of one split among its words."""

    split: str
    """`train`, `valid` or `test`."""
    word: str
    """The usual name, in lower case."""
    context: tuple[str, ...]
    """Other words of the name, in lower case, without digits and words such as "images"."""


def exact_split(name: str) -> str | None:
    """Return the split of a usual name in any case, or None."""
    return SPLIT_NAMES.get(name.lower())


def parse_split(name: str) -> SplitName | None:
    """Return the split that a name states, as in `train2017`, `seg_train` or `test-00000-of-00001`, or None.

    A name with the names of several splits states none.
    """
    words = [part for word in _WORD.findall(name) for part in _separate(word.lower())]
    found = [word for word in words if word in SPLIT_NAMES]
    if len({SPLIT_NAMES[word] for word in found}) != 1:
        return None
    context = tuple(word for word in words if word not in SPLIT_NAMES and word not in _FILLERS)
    return SplitName(SPLIT_NAMES[found[0]], found[0], context)


def are_splits(names: Iterable[str]) -> bool:
    """Return whether names look like splits or other parts of a data set, and not like classes.

    They do if all are nothing but names of splits, if two differ only in the split, such as `seg_train` and
    `seg_test`, or if all are numbered parts, such as `fold1` and `fold2`.
    """
    names = list(names)
    parsed = [parse_split(name) for name in names]
    if names and all(split and not split.context for split in parsed):
        return True
    splits_by_context: dict[tuple[str, ...], set[str]] = {}
    for split in parsed:
        if split:
            splits_by_context.setdefault(split.context, set()).add(split.split)
    return any(len(splits) > 1 for splits in splits_by_context.values()) or (
        bool(names) and all(map(_PART.fullmatch, names))
    )


def _separate(word: str) -> tuple[str, ...]:
    """Return the words of a compound such as `trainset`."""
    compound = _COMPOUND.fullmatch(word)
    return compound.groups() if compound else (word,)
