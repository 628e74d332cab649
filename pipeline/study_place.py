"""Where an Optuna study is kept."""

from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from pipeline.credentials import scrubbed, shown
from pipeline.errors import InputError, last_line
from pipeline.object_journal import ObjectJournal
from pipeline.storage import Storage


@dataclass(frozen=True)
class Place:
    """Where a study is: a journal, a database by its URL as Optuna takes it, or memory alone."""

    journal: Storage | None = None
    """A file, or a folder in an object store."""
    url: str | None = None

    def check(self) -> None:
        """Raises InputError where a database does not answer."""
        if self.url:
            self.storage()

    def storage(self) -> BaseStorage:
        """Opens it. Raises InputError where a database does not answer."""
        if self.url:
            try:
                return optuna.storages.get_storage(self.url)
            except Exception as error:  # each database's driver has its own
                where, why = shown(self.url), scrubbed(last_line(error))
                raise InputError(f"OPTUNA_STORAGE = {where}: cannot be opened: {why}") from None
        if self.journal:
            in_file = self.journal.is_local
            backend = JournalFileBackend(self.journal.root) if in_file else ObjectJournal(self.journal)
            return JournalStorage(backend)
        return InMemoryStorage()


MEMORY = Place()
