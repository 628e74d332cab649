"""What a sweep leaves behind: one folder that says what was asked, what was read and what came out."""

import itertools
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, final

from convene.config import search_space
from convene.config.schema import nearest
from convene.config.search_space import SearchSpace
from convene.environment import DEFAULT_STORAGE
from convene.errors import InputError
from convene.records import lock
from convene.records.result import SweepResult
from convene.storage import Storage

if TYPE_CHECKING:
    import pandas as pd

_FOLDER = "sweeps"
JOURNAL = "study.journal"
"""Of the Optuna study, in the sweep's folder: a file, or a folder of objects."""
EXPORT = "exports/ensemble"
"""The exported ensemble, in the sweep's folder."""
_SPACE, _ABOUT, _READS = "search_space.toml", "sweep.json", "test_reads.json"
_TRIALS, _RESULT = "trials.parquet", "result.json"
_REPORT = "report.html"
_LONGEST_NAME = 100  # characters: a folder's may have 255 bytes, with what is put around it
_NUMBER = 10  # of these for `-2`


@dataclass(frozen=True)
class SweepMetadata:
    """What was known of a sweep before its first trial."""

    name: str
    id: str
    """Told apart by it from sweeps of the same name elsewhere."""
    created: str
    """UTC, ISO 8601."""
    dataset: str
    classes: int
    train: int
    """Training images."""
    fingerprint: str
    """SHA-256 of the data set."""
    test_sha256: str
    versions: dict[str, str]
    """Of Python and the libraries that the result depends on."""
    study: str = ""
    """The database of the Optuna study, without a password; empty where it is in the sweep's folder."""


@dataclass(frozen=True)
class TestRead:
    """One opening of the test set."""

    time: str
    """UTC, ISO 8601."""
    sha256: str
    """Of the test images and labels."""
    members: list[int]
    """Trials that were scored as an ensemble."""


@final
class SweepRecord:
    """The folder `sweeps/NAME` under a storage root."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.name = name
        self.storage = storage
        self.files = storage / f"{_FOLDER}/{name}"

    @classmethod
    def create(cls, storage: Storage, name: str, space: SearchSpace, about: SweepMetadata) -> "SweepRecord":
        """Makes the folder. Raises InputError where there is one of that name."""
        check_free(storage, name)
        record = cls(storage, name)
        # An object store has no folders that could be renamed; there the second file makes the sweep.
        draft = storage / f"{_FOLDER}/.{name}-{about.id}" if storage.is_local else record.files
        draft.write(_SPACE, space.to_toml().encode())
        draft.write(_ABOUT, json.dumps(asdict(about), indent=1).encode())
        if storage.is_local:
            try:
                draft.local().rename(record.files.local())
            except OSError:
                shutil.rmtree(draft.local())
                check_free(storage, name)
                raise
        return record

    @classmethod
    def open(cls, storage: Storage, name: str) -> "SweepRecord":
        """A recorded sweep. Raises InputError with the nearest names where there is none."""
        if name not in names(storage):
            raise InputError(
                f"sweep {name!r}: there is none under {storage.root}{nearest(name, names(storage))}"
            )
        return cls(storage, name)

    def command(self, verb: str) -> str:
        """What to type for a verb on this sweep."""
        at = "" if self.storage.root == str(Path(DEFAULT_STORAGE).absolute()) else self.storage.root
        return f"convene {verb} {self.name}" + (f" --storage {shlex.quote(at)}" if at else "")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """The sweep for this process alone, until the context or the process ends, however it ends.

        Raises:
            InputError: if another process has it.
        """
        with lock.hold(self.files, self.name):
            if self.files.is_local:
                _mend(self.files.local(JOURNAL))
            yield

    @property
    def is_busy(self) -> bool:
        """Whether a process is at work on the sweep."""
        return lock.is_held(self.files)

    @property
    def space(self) -> SearchSpace:
        """The search space as resolved when the sweep began."""
        return search_space.parse(self.files.read(_SPACE).decode(), source=self.files.uri(_SPACE))

    def write_space(self, space: SearchSpace) -> None:
        """Replaces it: a sweep may be enlarged."""
        self.files.write(_SPACE, space.to_toml().encode())

    @property
    def about(self) -> SweepMetadata:
        """What was known before the first trial."""
        return SweepMetadata(**json.loads(self.files.read(_ABOUT)))

    @property
    def export(self) -> str:
        """Where the exported ensemble is."""
        return self.files.uri(EXPORT)

    @property
    def test_reads(self) -> list[TestRead]:
        """Every opening of the test set, in order."""
        if not self.files.exists(_READS):
            return []
        return [TestRead(**row) for row in json.loads(self.files.read(_READS))]

    def add_test_read(self, sha256: str, members: list[int]) -> None:
        """Records an opening; called before the images are seen, so that a crash hides none."""
        rows = [asdict(read) for read in (*self.test_reads, TestRead(now(), sha256, members))]
        self.files.write(_READS, json.dumps(rows, indent=1).encode())

    @property
    def result(self) -> SweepResult | None:
        """The result of the last final stage, or None before the first."""
        return SweepResult.from_json(self.files.read(_RESULT)) if self.files.exists(_RESULT) else None

    def write_result(self, result: SweepResult) -> None:
        """Replace the result."""
        self.files.write(_RESULT, json.dumps(result.to_json(), indent=1).encode())

    @property
    def trials_table(self) -> "pd.DataFrame":
        """`trials.parquet`, one row a trial."""
        import pandas as pd

        return pd.read_parquet(BytesIO(self.files.read(_TRIALS)))

    def write_trials(self, table: "pd.DataFrame") -> None:
        """Replaces `trials.parquet`."""
        buffer = BytesIO()
        table.to_parquet(buffer, index=False)
        self.files.write(_TRIALS, buffer.getvalue())

    @property
    def report(self) -> str:
        """Where the page is that shows what came out."""
        return self.files.uri(_REPORT)

    def write_report(self, page: str) -> None:
        """Replaces `report.html`."""
        self.files.write(_REPORT, page.encode())

    @property
    def artifacts(self) -> list[str]:
        """The files that belong to the sweep's MLflow run, as far as they are there, as paths in `files`."""
        return [file for file in (_REPORT, _TRIALS, _SPACE) if self.files.exists(file)]


def _mend(journal: Path) -> None:
    """Cuts off a line that was begun on a full disk: what is appended to it could never be read again."""
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)


def names(storage: Storage) -> list[str]:
    """Names of the sweeps under a storage root."""
    return [name for name in storage.names(_FOLDER) if storage.exists(f"{_FOLDER}/{name}/{_ABOUT}")]


def check_name(name: str) -> None:
    """Raises InputError where a name cannot be a sweep's."""
    if len(name) > _LONGEST_NAME or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            f"--name {name!r}: must be at most {_LONGEST_NAME} letters, digits, '.', '_' and '-', and begin "
            "with one of the first two"
        )


def check_free(storage: Storage, name: str) -> None:
    """Raises InputError where a name is taken or cannot be a sweep's."""
    check_name(name)
    if storage.exists(f"{_FOLDER}/{name}"):
        raise InputError(
            f"--name {name}: there is such a sweep under {storage.root}; choose another --name, "
            f"or go on with it: {SweepRecord(storage, name).command('resume')}"
        )


def free_name(storage: Storage, stem: str) -> str:
    """A name from `stem`, numbered where it is taken."""
    return numbered(as_name(stem), lambda name: storage.exists(f"{_FOLDER}/{name}"))


def as_name(stem: str) -> str:
    """What is left of `stem` where only a name's characters count, with room for a number."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[: _LONGEST_NAME - _NUMBER] or "sweep"


def numbered(stem: str, is_taken: Callable[[str], bool]) -> str:
    """`stem`, or `stem-2`, `stem-3`, … where it is taken."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not is_taken(name))


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
