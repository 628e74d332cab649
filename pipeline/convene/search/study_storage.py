"""The storage of an Optuna study."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from convene.errors import InputError, last_line
from convene.redaction import redact, redact_url
from convene.search.object_journal import ObjectJournal
from convene.storage import Storage


@dataclass(frozen=True)
class StudyStorage:
    """The place of a study: a journal, a database by Optuna's URL, or memory."""

    journal: Storage | None = None
    """A file, or a folder in an object store."""
    url: str | None = None

    def check(self) -> None:
        """Raise InputError if a database does not answer."""
        if self.url:
            self.storage()

    def storage(self) -> BaseStorage:
        """Open it. Raise InputError if a database does not answer."""
        if self.url:
            try:
                return optuna.storages.get_storage(self.url)
            except Exception as error:  # each database driver has its own
                where, why = redact_url(self.url), redact(last_line(error))
                raise InputError(f"OPTUNA_STORAGE = {where}: cannot be opened: {why}") from None
        if self.journal:
            if not self.journal.is_local:
                return _ObjectJournalStorage(ObjectJournal(self.journal))
            return JournalStorage(JournalFileBackend(self.journal.root))
        return InMemoryStorage()


@final
class _ObjectJournalStorage(JournalStorage):
    def __init__(self, journal: ObjectJournal) -> None:
        super().__init__(journal)
        self.journal = journal


@contextmanager
def batched_writes(storage: BaseStorage) -> Iterator[None]:
    """Write the context's entries to an object store in one request, where each entry would be one."""
    if isinstance(storage, _ObjectJournalStorage):
        with storage.journal.batched():
            yield
    else:
        yield


MEMORY = StudyStorage()
