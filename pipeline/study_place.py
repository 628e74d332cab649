"""Where an Optuna study is kept."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from pipeline.errors import InputError, last_line


@dataclass(frozen=True)
class Place:
    """Where a study is: a journal file, a database by its URL as Optuna takes it, or memory alone."""

    journal: Path | None = None
    url: str | None = None

    def check(self) -> None:
        """Raises InputError where a database does not answer."""
        if self.url:
            self.storage()

    def storage(self, *, mend: bool = True) -> BaseStorage:
        """Opens it. Raises InputError where a database does not answer.

        `mend` is for the one process that may write: another may be about to end the line that is cut off.
        """
        if self.url:
            try:
                return optuna.storages.get_storage(self.url)
            except Exception as error:  # each database's driver has its own
                where, why = shown(self.url), last_line(error)
                raise InputError(f"OPTUNA_STORAGE = {where}: cannot be opened: {why}") from None
        if self.journal:
            if mend:
                _mend(self.journal)
            return JournalStorage(JournalFileBackend(str(self.journal)))
        return InMemoryStorage()


MEMORY = Place()


def shown(url: str) -> str:
    """A database's URL as it may be shown and recorded: without its password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else url


def _mend(journal: Path) -> None:
    """Cuts off a line that was begun on a full disk: what is appended to it could never be read again."""
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)
