"""An Optuna journal in an object store, which cannot append to a file."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

from optuna.storages.journal import BaseJournalBackend

from convene.storage import Storage

_SEGMENT = 200
"""Entries in an object, which is rewritten with each of them and so stays at some tens of kilobytes."""


@final
class ObjectJournal(BaseJournalBackend):
    """Entries as lines of JSON, in objects named by the number of their first entry.

    Only one process at a time may append. The last object is rewritten with each entry until it is full.
    """

    def __init__(self, files: Storage) -> None:
        self._files = files
        self._first: int | None = None
        """Number of the first entry in the last object, once this process has appended."""
        self._last: list[dict[str, Any]] = []
        self._is_batching = False

    @contextmanager
    def batched(self) -> Iterator[None]:
        """Write the context's entries at its end, in one request instead of one for each entry.

        Raises:
            StorageError: if the store refuses them; this process then has more entries than the store.
        """
        self._is_batching = True
        try:
            yield
        finally:
            self._is_batching = False
            if self._first is not None:
                self._write(self._last)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the entries from a number on; the first is 0."""
        if self._first is not None and log_number_from >= self._first:
            return list(self._last[log_number_from - self._first :])
        starts = self._starts()
        wanted = starts[max(0, bisect_right(starts, log_number_from) - 1) :]
        entries = [entry for start in wanted for entry in self._read(start)]
        return entries[log_number_from - wanted[0] :] if wanted else []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries. Raise StorageError if the store refuses them."""
        if self._first is None:
            starts = self._starts()
            self._first = starts[-1] if starts else 0
            self._last = self._read(self._first) if starts else []
        if len(self._last) >= _SEGMENT:
            if self._is_batching:
                self._write(self._last)
            self._first, self._last = self._first + len(self._last), []
        # As they will be read back: an enumeration becomes its value.
        grown = [*self._last, *(json.loads(json.dumps(entry)) for entry in logs)]
        if not self._is_batching:
            self._write(grown)
        self._last = grown

    def _write(self, entries: list[dict[str, Any]]) -> None:
        assert self._first is not None
        self._files.write(_name(self._first), "".join(json.dumps(each) + "\n" for each in entries).encode())

    def _starts(self) -> list[int]:
        return [int(name.removesuffix(".jsonl")) for name in self._files.names()]

    def _read(self, start: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._files.read(_name(start)).splitlines()]


def _name(start: int) -> str:
    return f"{start:09d}.jsonl"
